"""A record that attacks the page that shows it."""

from __future__ import annotations

from nlpcl.records.record import Record
from tests.helpers.records import record_of

EVIL = "<script>hurt()</script><img src=x onerror=hurt()>\u202e|`*[x](javascript:hurt())%{z}\"'&"


def hostile() -> Record:
    tasks = [{"name": f"{EVIL[:90]}{i}", "labels": [EVIL], "train": 1, "valid": 0, "test": 1} for i in range(3)]
    spec = dict.fromkeys(("strategy", "benchmark", "backbone", "model"), EVIL)
    return record_of(
        "ncl", EVIL, 0, 0.5, spec={**spec, "options": {EVIL: EVIL}, "tasks": None},
        data={"tasks": tasks, "files": {EVIL: EVIL}, "encoder": {"name": EVIL}},
        sizes={"parameters": EVIL}, versions={EVIL: EVIL},
        measured={"host": {"cpu": EVIL}, "device": EVIL, "git": {"commit": EVIL}, "started": EVIL},
    )  # fmt: skip
