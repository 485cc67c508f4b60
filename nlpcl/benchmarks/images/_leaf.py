"""Reading the JSON files of LEAF (Caldas et al., https://arxiv.org/abs/1812.01097), the source of two streams.

They stand in the repository of CAT (Ke, Liu and Huang, NeurIPS 2020) at a pinned revision.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from nlpcl.benchmarks._base import published_hashes
from nlpcl.benchmarks._files.download import data_bytes
from nlpcl.errors import UsageError

REVISION = "350ba5dd64d5c14ae4bebc6f86765e35bbae0556"
REPOSITORY = f"GitHub ZixuanKe/CAT, commit {REVISION}"
SOURCE = f"https://raw.githubusercontent.com/ZixuanKe/CAT/{REVISION}"

Users = dict[str, tuple[list[Any], list[int]]]


def read_leaf(folder: str, path: str, root: str | Path | None, used: dict[str, str]) -> Users:
    """Inputs and labels by user.

    :param folder: the stream's folder under a data root, and the name of its list of hashes.
    :param path: the file's path in it, and in the repository.
    :param used: gets path and SHA-256 of the file.
    :raises UsageError: the file is missing, altered or out of reach.
    """
    digest = published_hashes(folder)[path]
    used[f"{folder}/{path}"] = digest
    content = json.loads(data_bytes(folder, path, digest, f"{SOURCE}/{path}", root))
    try:
        return {
            user: (content["user_data"][user]["x"], [int(y) for y in content["user_data"][user]["y"]])
            for user in content["users"]
        }
    except (KeyError, TypeError) as error:
        raise UsageError(f"{folder}/{path} is not in LEAF's format ({error!r}).") from error
