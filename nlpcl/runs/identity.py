"""Which data and which encoder a run reads, where their names do not say it.

Published files are checked against the SHA-256 of what was published, and minilm against its own, so their names are
enough. Own data, an encoder in a local folder and a file of word vectors are known by a digest of their contents, which
is part of the spec and so of the run's id: other data are another run, and one folder is one run, wherever it lies and
however its path is spelled. An encoder of the model hub is looked at where a record or a checkpoint of the same id is
about to be taken up, skipped or overwritten.
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

    Where they are missing the spec is returned as it is: what reads them says so.

    :param spec: a complete spec.
    :param data_root: folder with the data; None: the one NLPCL_DATA names.
    :raises UsageError: the spec has the digest of other data, or of another encoder, or what it names is not here.
    """
    words = bool(backbones.get(spec.backbone).words)
    found = {"data_sha256": _data_digest(spec, data_root), "model_sha256": model_digest(spec.model, words)}
    advice = {
        "data_sha256": "name the folder that holds the same data with --data-root",
        "model_sha256": "name the folder that holds the same encoder with --model",
    }
    for name, digest in found.items():
        stored = getattr(spec, name)
        if stored is not None and stored != digest:
            what = "data" if name == "data_sha256" else f"model {spec.model!r}"
            here = "none is found here" if digest is None else f"what is here has {digest[:12]}..."
            raise UsageError(f"the {what} of this spec had {name} {stored[:12]}..., and {here}: {advice[name]}.")
    new = {name: digest for name, digest in found.items() if digest is not None and getattr(spec, name) is None}
    if not new:
        return spec
    return spec.model_copy(update={**new, "spec_version": SPEC_VERSION})


def _data_digest(spec: CompleteSpec, data_root: str | Path | None) -> str | None:
    from nlpcl.benchmarks._files.download import data_root as folder_of

    own_files = benchmarks.get(spec.benchmark).own_files
    if own_files is None or (root := folder_of(data_root, file=True)) is None:
        return None
    hashes = own_files(root, spec)
    return digest_of_hashes(hashes) if hashes else None


def check_same(known: Mapping[str, Any], now: Mapping[str, Any], place: str) -> None:
    """Refuse to take up, skip or overwrite what was computed from other files.

    :param known: a record's `data`: SHA-256 by file, and the encoder's.
    :param now: the same of the run in hand; data files are compared only where it has `files`.
    :param place: what `known` was found in, for the message.
    :raises UsageError: naming the first file that differs.
    """
    files = _hashes(known.get("files")), _hashes(now.get("files"))
    encoder = _hashes(known.get("encoder")), _hashes(now.get("encoder"))
    of_data = {*files[0], *files[1]} if "files" in now else set()
    of_encoder = {*encoder[0]} & {*encoder[1]}  # older records do not name all of its files
    for what, names, (before, here) in (("data file", of_data, files), ("encoder", of_encoder, encoder)):
        for name in sorted(names):
            if before.get(name) != here.get(name):
                then, today = (str(hashes.get(name, "none"))[:12] for hashes in (before, here))
                raise UsageError(
                    f"{place} was made with another {what}: {name} had {then}, and now has {today}. Give the same one, "
                    "or choose another --out."
                )


def _hashes(content: Any) -> dict[str, str]:
    """SHA-256 by name, those of an encoder's tokenizer among them; what else a record tells there is left out."""
    found: dict[str, str] = {}
    for name, value in content.items() if isinstance(content, Mapping) else ():
        if isinstance(value, Mapping):
            found |= _hashes(value)
        elif isinstance(value, str) and SHA256.fullmatch(value):
            found[name] = value
    return found
