"""Several processes of one run must do the same: the same spec, options, software, data and encoder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nlpcl.config.encoders import digest_of_hashes
from nlpcl.config.files import sha256
from nlpcl.config.spec import OWNERS, CompleteSpec
from nlpcl.runs.identity import hashes_in
from nlpcl.runs.results import versions
from nlpcl.training.distributed import check_alike, world_size


def check_asked_alike(spec: CompleteSpec, settings: Mapping[str, object]) -> None:
    """Check, before anything is made, that all processes run the same spec with the same software.

    :param spec: with the digests of data and encoder; where a model has one, it may lie elsewhere on each machine.
    :param settings: how it is computed.
    :raises UsageError: in all processes, with what differs.
    """
    if world_size() == 1:
        return
    software = {name: version for name, version in versions().items() if name != "threads"}
    package = Path(__file__).resolve().parents[1]
    code = digest_of_hashes({str(file.relative_to(package)): sha256(file) for file in package.rglob("*.py")})
    fields: dict[str, Any] = {}
    for name, value in spec.model_dump(mode="json", exclude_unset=True).items():
        if name in OWNERS:
            fields |= value
        elif name != "model" or spec.model_sha256 is None:
            fields[name] = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
    check_alike({**software, "code with SHA-256": code[:12], **fields, "spec": spec.id, **settings})


def check_read_alike(data: Mapping[str, Any]) -> None:
    """Check that all processes have read the same.

    :param data: as in a record.
    :raises UsageError: in all processes, with what differs.
    """
    if world_size() > 1:
        digests = {f"the SHA-256 of {name}": hashes_in(data.get(name)) for name in ("files", "encoder")}
        tasks = json.dumps(data.get("tasks"), sort_keys=True)
        check_alike({**{name: digest_of_hashes(hashes) for name, hashes in digests.items()}, "tasks": tasks})
