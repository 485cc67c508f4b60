"""Files of the repository LifelongSentClass (Ke, Xu and Liu, NAACL 2021), the source of ASC and DSC."""

from __future__ import annotations

from typing import Any

from nlpcl.benchmarks._stream import StreamRequest

_REVISION = "d02aae98f2111bb72d3f18f6a568d166d64e7ad7"
LIFELONG_SENT_CLASS = f"GitHub ZixuanKe/LifelongSentClass, commit {_REVISION}"
FILE_OF_SPLIT = {"train": "train", "valid": "dev", "test": "test"}


def fetch_lifelong(request: StreamRequest[Any], path: str) -> bytes:
    """Return the content of a file at `dat/...`, checked and noted.

    :raises UsageError: it is missing, altered or out of reach.
    """
    return request.fetch(
        request.name, path, f"https://raw.githubusercontent.com/ZixuanKe/LifelongSentClass/{_REVISION}"
    )
