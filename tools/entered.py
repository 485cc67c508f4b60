"""Count the functions of nlpcl that a run enters before its first optimizer step, and the files they stand in.

What a reader of one run must read at most. `def`s count, with methods and properties; module and class bodies,
comprehensions and lambdas do not. The run ends right before the step, and its folder is removed.

    python tools/entered.py run --strategy ewc --device cpu
"""

from __future__ import annotations

import inspect
import sys
import tempfile
import threading
from collections import defaultdict
from contextlib import suppress
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

from torch.optim.optimizer import register_optimizer_step_pre_hook

import nlpcl
from nlpcl.cli import main

PACKAGE = Path(nlpcl.__file__).parent


class _FirstStepError(Exception):
    pass


def _stop(*args: Any) -> None:
    sys.setprofile(None)
    threading.setprofile(None)  # type: ignore[arg-type]
    raise _FirstStepError


def entered(argv: list[str]) -> dict[str, list[str]]:
    """Return by file the qualified names of the functions that `nlpcl argv` enters before the first step."""
    codes: set[CodeType] = set()

    def note(frame: FrameType, event: str, arg: Any) -> None:
        if event == "call":
            codes.add(frame.f_code)

    register_optimizer_step_pre_hook(_stop)
    threading.setprofile(note)
    sys.setprofile(note)
    with suppress(_FirstStepError):
        main(argv)
    names = defaultdict(list)
    for code in codes:
        path = Path(code.co_filename)
        is_def = bool(code.co_flags & inspect.CO_OPTIMIZED) and not code.co_name.startswith("<")
        if is_def and path.is_relative_to(PACKAGE):
            names[str(path.relative_to(PACKAGE))].append(getattr(code, "co_qualname", code.co_name))
    return dict(sorted(names.items()))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        functions = entered([*sys.argv[1:], "--out", folder])
    for file, names in functions.items():
        print(f"{file}: {', '.join(sorted(names))}")
    print(f"{sum(map(len, functions.values()))} functions in {len(functions)} files")
