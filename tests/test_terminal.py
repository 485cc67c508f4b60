"""What the command line prints: text that is not ours neither steers a terminal nor fills it."""

from __future__ import annotations

import ast
import re
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import nlpcl.cli
from nlpcl.cli import main
from nlpcl.errors import LONGEST_LIST, LONGEST_SENTENCE, UsageErrors, brief, escaped, printable
from tests.helpers.text_tasks import make_tasks, written

OBEYED = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
NAMES = {
    "escape": "\x1b[31mred",
    "bell": "\x07",
    "delete": "\x7f",
    "c1": "\x9b2J",
    "bidi": "\u202eab",
    "isolate": "\u2066ab",
    "line": "a\nnlpcl: error: b",
    "carriage return": "a\rb",
    "separator": "a\u2028b",
    "half a character": "\udcff",
}


@pytest.fixture
def plain(capsys: pytest.CaptureFixture[str]) -> Any:
    """Run a command; return its exit code and what it printed, which no terminal would obey."""

    def run(*arguments: object) -> tuple[int, str, str]:
        code = main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        assert not OBEYED.search(out + err)
        assert "\nnlpcl: error: b" not in out + err
        return code, out, err

    return run


@pytest.mark.parametrize("name", NAMES)
def test_names_are_shown_escaped(name: str, tmp_path: Path, plain: Any) -> None:
    text = NAMES[name]
    for option in ("--model", "--out", "--strategy", "--set", "--order", "--from", "--preset"):
        code, out, err = plain("run", "--dry-run", *(("--out", tmp_path) if option != "--out" else ()), option, text)
        assert code == (0 if option in ("--model", "--out") and out else 2) and bool(out) != bool(err)
    for command in ("info", "compare", "data prepare", "data verify", "leaderboard add", "leaderboard check"):
        assert plain(*command.split(), text)[0] in (0, 2)


@pytest.mark.parametrize("name", ["escape", "bidi", "line", "half a character"])
def test_a_run_ends_well_in_a_folder_of_any_name(name: str, tiny: str, tmp_path: Path, plain: Any) -> None:
    out = tmp_path / "runs" / NAMES[name]
    (tmp_path / "data").mkdir()
    root = written(make_tasks(n=16), tmp_path / "data")
    command = ("run", "--strategy", "ncl", "--benchmark", "folder", "--data-root", root, "--model", tiny)
    code, said, err = plain(*command, "--epochs", 1, "--max-length", 16, "--device", "cpu", "--plot", "--out", out)
    assert code == 0 and escaped(str(out)) in said, err
    assert len(list(out.glob("*/record.json"))) == 1


@pytest.mark.parametrize("name", NAMES)
def test_a_line_of_a_job_array_can_be_shown(name: str, plain: Any) -> None:
    code, out, err = plain("sweep", "--print", "--strategy", "ncl,hat", "--data-root", NAMES[name])
    assert code == 2 and not out and "job array" in err


@pytest.mark.parametrize("length", [5000, 120_000])
@pytest.mark.parametrize("option", ["--strategy", "--model", "--order", "--tasks", "--seed", "--set", "--out"])
def test_a_long_value_is_cut_and_its_length_is_said(option: str, length: int, tmp_path: Path, plain: Any) -> None:
    values = ("x" * length, "9" * length, "a b " * (length // 4), ",".join(map(str, range(length))), "[" * length)
    for value in values:
        text = f"learning_rate={value}" if option == "--set" else value
        out = ("--out", tmp_path) if option != "--out" else ()
        code, _, err = plain("run", "--dry-run", *out, f"{option}={text}")
        said, _, known = err.removeprefix("nlpcl: error: ").partition("Known: ")
        assert code in (0, 2) and len(said) <= LONGEST_SENTENCE + 1 and len(known) <= LONGEST_LIST
        assert "characters..." in err or value != values[0] or option in ("--model", "--out")


def test_a_sentence_is_cut_in_the_middle() -> None:
    assert brief("short") == "short"
    path = "/".join(["folder"] * 20)
    assert brief(f"cannot read {path}.") == f"cannot read {path}."
    word = brief(f"unknown strategy {'x' * 5000}. Known: {', '.join(['name'] * 100)}.")
    assert word.startswith("unknown strategy xxx") and word.endswith("name, name.") and "4,8" in word
    sentence = brief(f"the value {'a ' * 5000} is wrong: use another.")
    assert len(sentence) <= LONGEST_SENTENCE and sentence.endswith("is wrong: use another.")


def test_texts_are_shown_as_python_writes_them() -> None:
    assert escaped("é 日本 ✓") == "é 日本 ✓"
    assert escaped("a\x1b\u202e\udcff\n\U000e0033") == "a\\x1b\\u202e\\udcff\\n\\U000e0033"
    assert printable(" a \n b\t") == "a b"
    assert str(UsageErrors("2 problems", ["a\nb", "c\x07"])) == "2 problems\n  a\\nb\n  c\\x07"


def test_everything_is_printed_by_the_functions_that_escape() -> None:
    """`say` and `warn` print; elsewhere nothing calls `print`, or writes to a stream."""
    calls = {}
    for file in Path(nlpcl.cli.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("print", "typer.echo", "sys.stdout.write"):
                calls.setdefault(file.name, []).append(ast.unparse(node))
    assert {name: len(printed) for name, printed in calls.items()} == {"app.py": 2, "__init__.py": 1}, calls


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("seconds", [0.1, 0.4])
def test_a_signal_while_python_imports_ends_it_quietly(seconds: float, number: signal.Signals) -> None:
    script = "from nlpcl.cli import entry_point; print(flush=True); entry_point()"
    # What a shell starts in the background ignores SIGINT, and so does all that it starts.
    heeds = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    command = [sys.executable, "-c", script, "list"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=heeds)
    assert process.stdout is not None
    process.stdout.readline()
    time.sleep(seconds)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, b"nlpcl: interrupted\n")
