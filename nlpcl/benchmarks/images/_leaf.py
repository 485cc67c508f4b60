"""Reading the JSON files of LEAF (Caldas et al., https://arxiv.org/abs/1812.01097), the source of two streams.

They stand in the repository of CAT (Ke, Liu and Huang, NeurIPS 2020) at a pinned revision.
"""

from __future__ import annotations

from typing import Any

from nlpcl.benchmarks._files.content import json_of, text_of
from nlpcl.benchmarks._stream import StreamRequest
from nlpcl.errors import UsageError

_REVISION = "350ba5dd64d5c14ae4bebc6f86765e35bbae0556"
CAT_REPOSITORY = f"GitHub ZixuanKe/CAT, commit {_REVISION}"
Users = dict[str, tuple[list[Any], list[int]]]


def read_leaf(request: StreamRequest[Any], path: str, *, download: bool = False) -> Users:
    """Return inputs and labels by user.

    :param path: the file's path in the stream's folder under a data root, and in the repository.
    :param download: whether to download the file though there is a data root.
    :raises UsageError: the file is missing, altered or out of reach.
    """
    source = f"https://raw.githubusercontent.com/ZixuanKe/CAT/{_REVISION}"
    place = f"{request.name}/{path}"
    content = json_of(text_of(request.fetch(request.name, path, source, download=download), place), place)
    try:
        return {
            user: (content["user_data"][user]["x"], [int(y) for y in content["user_data"][user]["y"]])
            for user in content["users"]
        }
    except (KeyError, TypeError) as error:
        raise UsageError(f"{place} is not in LEAF's format ({error!r}).") from error
