"""The digests of the data and the encoder that a run reads, if their names do not identify them.

Published files, and minilm, are checked against the SHA-256 of what was published, so their names are enough. Own data,
an encoder in a local folder and a file of word vectors are identified by a digest of their contents. It is part of the
spec and so of the run's id: other data are another run, and a folder that was moved is still the same run. An encoder
of the model hub is checked when a record or checkpoint of the same id is about to be resumed, skipped or overwritten.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nlpcl.config.encoders import digest_of_hashes, model_digest
from nlpcl.config.spec import SPEC_VERSION, CompleteSpec
from nlpcl.errors import UsageError
from nlpcl.registry import backbones, benchmarks

SHA256 = re.compile("[0-9a-f]{64}")


def identified(spec: CompleteSpec, data_root: str | Path | None) -> CompleteSpec:
    """Return a complete spec with the digests of own data and of a local encoder or vector file.

    If they are missing, the spec is returned unchanged: the code that reads them says so.

    :param spec: a complete spec.
    :param data_root: folder with the data; None means the one that NLPCL_DATA names.
    :raises UsageError: the spec has the digest of other or missing data, or of another or missing encoder.
    """
    from nlpcl.benchmarks._files.download import data_root as folder_of

    own_files = benchmarks.get(spec.benchmark).own_files
    root = None if own_files is None else folder_of(data_root, file=True)
    hashes = {} if own_files is None or root is None else own_files(root, spec)
    words = bool(backbones.get(spec.backbone).words)
    facts = (
        ("data_sha256", "data", digest_of_hashes(hashes) if hashes else None, "--data-root"),
        ("model_sha256", f"model {spec.model!r}", model_digest(spec.model, words), "--model"),
    )
    new: dict[str, Any] = {}
    for name, what, digest, flag in facts:
        stored = getattr(spec, name)
        if stored is not None and stored != digest:
            now = "there is none now" if digest is None else f"now it is {digest[:12]}..."
            advice = f"say with {flag} where the same lies"
            raise UsageError(f"the {what} of this spec had {name} {stored[:12]}..., and {now}: {advice}.")
        if stored != digest:
            new |= {name: digest, "spec_version": SPEC_VERSION}
    return spec.model_copy(update=new) if new else spec


def check_same(known: Mapping[str, Any], now: Mapping[str, Any], place: str) -> None:
    """Refuse to resume, skip or overwrite what was computed from other files.

    :param known: a record's `data`: SHA-256 by file, and the encoder's.
    :param now: the same for this run; data files are compared only if it has `files`.
    :param place: the file that holds `known`, for the message.
    :raises UsageError: naming the first file that differs.
    """
    files = hashes_in(known.get("files")), hashes_in(now.get("files"))
    encoder = hashes_in(known.get("encoder")), hashes_in(now.get("encoder"))
    data_names = {*files[0], *files[1]} if "files" in now else set()
    encoder_names = {*encoder[0]} & {*encoder[1]}  # older records do not name all of its files
    for what, names, (before, after) in (("data file", data_names, files), ("encoder", encoder_names, encoder)):
        for name in sorted(names):
            if before.get(name) != after.get(name):
                old, new = (str(hashes.get(name, "none"))[:12] for hashes in (before, after))
                raise UsageError(
                    f"{place} was made with another {what}: {name} had {old}, and now has {new}. Give the same one, "
                    "or choose another --out."
                )


def hashes_in(content: Any) -> dict[str, str]:
    """Return the SHA-256 of all files in a part of a record's `data`, by name."""
    hashes: dict[str, str] = {}
    for name, value in content.items() if isinstance(content, Mapping) else ():
        if isinstance(value, Mapping):
            hashes |= hashes_in(value)
        elif isinstance(value, str) and SHA256.fullmatch(value):
            hashes[name] = value
    return hashes
