"""Files of a benchmark: from a folder the user names, or downloaded once, always checked by SHA-256."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pooch
import requests

from nlpcl.encoders import sha256 as hash_of
from nlpcl.errors import UsageError

ROOT_VARIABLE = "NLPCL_DATA"


def data_file(folder: str, path: str, sha256: str, url: str, root: str | Path | None) -> Path:
    """The file `root/folder/path`, or without a root the downloaded copy of `url`.

    :param folder: the benchmark's folder under a data root.
    :param path: the file's path in it.
    :param sha256: what the file must hash to.
    :param url: its public source, at a pinned revision.
    :param root: `--data-root`; None: the environment variable NLPCL_DATA, else download.
    :raises UsageError: the file is missing, differs from the published one, or cannot be downloaded.
    """
    root = root or os.environ.get(ROOT_VARIABLE) or None
    if root is None:
        return _download(folder, path, sha256, url)
    if not Path(root).is_dir():
        raise UsageError(f"the data root {str(root)!r} is not a folder; give another --data-root or none to download.")
    file = Path(root) / folder / path
    if not file.is_file():
        raise UsageError(f"{file} is missing; complete the data root, or leave --data-root out to download the data.")
    found = hash_of(file)
    if found != sha256:
        raise UsageError(
            f"{file} differs from the published file (SHA-256 {found[:12]}..., expected {sha256[:12]}...); "
            "replace it by the original, or leave --data-root out to download it."
        )
    return file


def _download(folder: str, path: str, sha256: str, url: str) -> Path:
    pooch.get_logger().setLevel(logging.ERROR)
    target = Path(pooch.os_cache("nlpcl")) / folder / path
    try:
        # pooch writes to a temporary name, checks the hash and renames.
        pooch.retrieve(url, known_hash=f"sha256:{sha256}", fname=target.name, path=target.parent)
    except ValueError as error:
        raise UsageError(
            f"{url} no longer gives the published file (its SHA-256 differs); "
            "get the data elsewhere and name the folder with --data-root."
        ) from error
    except (OSError, requests.RequestException) as error:
        raise UsageError(
            f"could not download {url} ({type(error).__name__}); check the network and that {target.parent} can be "
            f"written, or name a folder that holds {folder}/{path} with --data-root."
        ) from error
    return target
