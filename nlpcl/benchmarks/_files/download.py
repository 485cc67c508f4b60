"""Read the files of a benchmark: from a folder the user names, or downloaded once, always checked by SHA-256."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import pooch

from nlpcl.benchmarks._files.content import unzipped
from nlpcl.config.files import known_sha256, read_plain, replacing
from nlpcl.errors import UsageError

ROOT_VARIABLE = "NLPCL_DATA"


def data_bytes(folder: str, path: str, sha256: str, url: str, root: Path | None) -> bytes:
    """Return the content of a published file: `root/folder/path`, or without a root the downloaded copy of `url`.

    :param folder: the benchmark's folder under a data root.
    :param path: the file's path in it; `path.gz` will do, if what it holds is the published file.
    :param sha256: what the content must hash to.
    :param url: its public source, at a pinned revision.
    :param root: the data root, see `data_root`; None means download.
    :raises UsageError: the file is missing, differs from the published one, or cannot be downloaded.
    """
    if root is None:
        return _download(folder, path, sha256, url).read_bytes()
    file = root / folder / path
    content = read_file(file)
    digest = hashlib.sha256(content).hexdigest()
    if digest != sha256:
        raise UsageError(
            f"{file} differs from the published file (SHA-256 {digest[:12]}..., expected {sha256[:12]}...); replace it "
            "by the original, or leave --data-root out to download it."
        )
    return content


def data_root(root: str | Path | None, *, file: bool = False) -> Path | None:
    """Return the folder that `root`, or else the environment variable NLPCL_DATA, names; None if neither does.

    :param file: whether one file will do as well.
    :raises UsageError: it is not a folder.
    """
    root = root or os.environ.get(ROOT_VARIABLE) or None
    root = None if root is None else os.path.expanduser(root)  # no shell does it for --data-root=~/data
    if root is not None and not os.path.isdir(root) and not (file and os.path.isfile(root)):
        what = "folder or file" if file else "folder"
        raise UsageError(f"the data root {str(root)!r} is not a {what}; give another --data-root or none to download.")
    return None if root is None else Path(root)


def read_file(file: Path) -> bytes:
    """Return the content of `file`, or what `file.gz` holds.

    :raises UsageError: neither is there, it is no plain file, or the latter is cut short.
    """
    packed = file.with_name(file.name + ".gz")
    if os.path.lexists(file):
        return read_plain(file)
    if not os.path.lexists(packed):
        raise UsageError(f"{file} is missing; complete the data root, or leave --data-root out to download the data.")
    return unzipped(read_plain(packed), str(packed))


def own_files(*patterns: str, published: Collection[str] = ()) -> Callable[[Path, Any], dict[str, str]]:
    """Return a function for `BenchmarkEntry.own_files`.

    :param patterns: of files under the data root; `name.gz` stands for `name` where that is missing.
    :param published: SHA-256 of files as published, and of what they hold if they are compressed: these are not own.
    """

    def hashes_of(root: Path, spec: Any) -> dict[str, str]:
        hashes: dict[str, str] = {}
        for pattern in patterns:
            for file in sorted(file for file in root.glob(pattern) if file.is_file()):
                name = file.relative_to(root).as_posix()
                plain = name if name.endswith(".tar.gz") else name.removesuffix(".gz")
                if plain in hashes or known_sha256(file) in published:
                    continue
                digest = known_sha256(file) if name == plain else hashlib.sha256(read_file(root / plain)).hexdigest()
                if digest not in published:
                    hashes[plain] = digest
        return hashes

    return hashes_of


def _download(folder: str, path: str, sha256: str, url: str) -> Path:
    target = Path(pooch.os_cache("nlpcl")) / folder / path
    if target.is_file() and known_sha256(target) == sha256:
        return target
    try:
        with replacing(target) as temporary:
            pooch.HTTPDownloader()(url, str(temporary), None)
            if known_sha256(temporary) != sha256:
                raise UsageError(
                    f"{url} no longer gives the published file (its SHA-256 differs); "
                    "get the data elsewhere and name the folder with --data-root."
                )
    except OSError as error:  # requests' are, too
        raise UsageError(
            f"could not download {url} ({error.strerror or type(error).__name__}); check the network and that "
            f"{target.parent} can be written, or name a folder that holds {folder}/{path} with --data-root."
        ) from error
    return target
