"""Plugins of other distributions, whole and broken: what is broken is named, and the rest is left alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from nlpcl.registry import Registry, StrategyEntry, backbones, benchmarks, strategies
from tests.helpers.messages import mentions

ROOT = Path(__file__).resolve().parents[1]
GOOD = """
    from nlpcl.registry import register_{kind}
    @register_{kind}("{name}", title="a title"{more})
    class Mine: pass
"""
MORE = {"strategy": "", "backbone": "", "benchmark": ', source="a", licence="b", citation="c"'}
GROUPS = {"strategy": "nlpcl.strategies", "benchmark": "nlpcl.benchmarks", "backbone": "nlpcl.models"}
BROKEN = {
    "ImportError": "import no_such_module",
    "SyntaxError": "def",
    "RuntimeError": "raise RuntimeError('it is\\nMonday')",
    "ZeroDivisionError": "1 / 0",
    "SystemExit": "import sys; sys.exit(3)",
    "no": "value = 1",
    "twice": None,  # of a name that nlpcl has
}
TAKEN = {"strategy": "ewc", "benchmark": "SplitMNIST", "backbone": "mlp"}


def good(name: str, kind: str = "strategy") -> str:
    return GOOD.format(kind=kind, name=name, more=MORE[kind])


def install(folder: Path, name: str, code: str, kind: str = "strategy") -> None:
    """A distribution with one entry point, of the name of its module, as pip leaves it."""
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{GROUPS[kind]}]\n{name} = {name}\n")
    (folder / f"{name}.py").write_text(textwrap.dedent(code))


def python(folder: Path, *argv: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(folder), str(ROOT)])
    environment = {**os.environ, "PYTHONPATH": path, "PYTHONWARNINGS": "ignore", "COLUMNS": "200"}
    return subprocess.run([sys.executable, *argv], capture_output=True, text=True, env=environment, cwd=folder)


def nlpcl(folder: Path, *argv: str) -> subprocess.CompletedProcess[str]:
    return python(folder, "-m", "nlpcl", *argv)


def listed(done: subprocess.CompletedProcess[str]) -> dict[str, set[str]]:
    return {kind: {entry["name"] for entry in entries} for kind, entries in json.loads(done.stdout).items()}


def test_none_of_ours_is_broken() -> None:
    for registry in (strategies, benchmarks, backbones):
        assert registry.entries() and registry.faults == []


@pytest.fixture(scope="module")
def all_broken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of each kind a whole plugin and one for each way to be broken."""
    folder = tmp_path_factory.mktemp("plugins")
    for kind in GROUPS:
        install(folder, f"good_{kind}", good(f"good_{kind}", kind), kind)
        for fault, code in BROKEN.items():
            name = f"bad_{kind}_{fault.lower()}"
            # What it registered before it failed is gone, too.
            install(folder, name, code if code is not None else good(name, kind) + good(TAKEN[kind], kind), kind)
    return folder


def test_list_names_each_broken_plugin_once_and_shows_the_rest(all_broken: Path) -> None:
    done = nlpcl(all_broken, "list", "--json")
    assert done.returncode == 0, done.stderr
    found = listed(done)
    lines = done.stderr.splitlines()
    assert len(lines) == len(GROUPS) * len(BROKEN)
    for kind, names in zip(("strategies", "benchmarks", "backbones"), found.values(), strict=True):
        assert {"ewc", "SplitMNIST", "mlp"} & names and not [name for name in names if name.startswith("bad")], kind
    for kind in GROUPS:
        assert any(f"good_{kind}" in names for names in found.values())
        for fault in BROKEN:
            (line,) = [line for line in lines if mentions(line, f"bad_{kind}_{fault.lower()}")]
            word = {"ImportError": "ModuleNotFoundError no_such_module", "twice": TAKEN[kind]}.get(fault, fault)
            assert mentions(line, f"{kind} {word}"), line


LOOKUPS = """
    import contextlib, io, json, sys
    from nlpcl.cli import main
    for argv in json.loads(sys.argv[1]):
        said, error = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(error):
            code = main(argv)
        print(json.dumps([code, said.getvalue(), error.getvalue()]))
"""


def test_a_lookup_that_finds_nothing_says_what_could_not_be_loaded(all_broken: Path) -> None:
    names = ["bad_strategy_runtimeerror", "bad-strategy-runtimeerror", "no_such", "hatt"]
    asked = [argv for name in names for argv in (["run", "--strategy", name, "--dry-run"], ["info", name])]
    done = python(all_broken, "-c", textwrap.dedent(LOOKUPS), json.dumps(asked))
    for argv, answer in zip(asked, done.stdout.splitlines(), strict=True):
        name = argv[1] if argv[0] == "info" else argv[2]
        code, said, error = json.loads(answer)
        assert code == 2 and said == ""
        *faults, sentence = error.splitlines()
        assert sentence.startswith("nlpcl: error: ") and (not faults) == ("bad" in name)
        assert mentions(error, f"{name} bad_strategy_runtimeerror RuntimeError Monday")
        assert sentence.count("Monday") == ("bad" in name)


def test_what_is_found_imports_no_plugin(tmp_path: Path) -> None:
    """Neither by its file's name, nor by another that a file of ours registers; a plugin may bear a file's name."""
    for kind in GROUPS:
        install(tmp_path, f"loud_{kind}", "raise SystemError('imported')", kind)
    install(tmp_path, "ewc", "raise SystemError('imported')")
    code = """
        import sys
        from nlpcl.registry import backbones, benchmarks, strategies
        for registry, names in ((strategies, ("ewc", "DER++", "avalanche/SI")), (benchmarks, ("asc", "SplitMNIST")),
                                (backbones, ("w2v_as", "bert"))):
            assert all(registry.get(name).target.__module__.startswith(("nlpcl", "avalanche")) for name in names)
            assert registry.faults == []
        assert not {"ewc", "loud_strategy", "loud_benchmark", "loud_backbone"} & set(sys.modules)
    """
    done = python(tmp_path, "-c", textwrap.dedent(code))
    assert done.returncode == 0, done.stderr


def test_a_whole_plugin_among_broken_ones_is_found(all_broken: Path) -> None:
    code = """
        from nlpcl.cli import main
        from nlpcl.registry import strategies
        assert main(["info", "good_strategy"]) == 0
        entry = strategies.get("Good-Strategy")
        assert entry.target.__module__ == "good_strategy"
        assert strategies.get("ewc").target.__module__ == "nlpcl.strategies.ewc"
        names = strategies.names()
        assert names == strategies.names() and len(strategies.faults) == 7
        assert strategies.get("good_strategy") is entry
    """
    done = python(all_broken, "-c", textwrap.dedent(code))
    assert done.returncode == 0, done.stderr
    assert "a title" in done.stdout
    assert done.stderr.count("RuntimeError") == 1  # of two lists, once


def test_a_name_of_ours_stays_ours_whoever_comes_first(tmp_path: Path) -> None:
    install(tmp_path, "thief", good("loot") + good("ewc"))
    code = """
        from nlpcl.registry import strategies
        try:
            strategies.get("loot")
        except ValueError as error:
            assert "thief" in str(error) and "ewc" in str(error), error
        else:
            raise AssertionError
        assert strategies.get("ewc").target.__module__ == "nlpcl.strategies.ewc"
        assert "loot" not in strategies.names()
    """
    done = python(tmp_path, "-c", textwrap.dedent(code))
    assert done.returncode == 0, done.stderr


def test_a_plugin_that_another_one_imports_is_not_empty(tmp_path: Path) -> None:
    install(tmp_path, "base_plugin", good("base_plugin"))
    install(tmp_path, "aaa", "    import base_plugin\n" + good("aaa"))
    done = nlpcl(tmp_path, "list", "--json")
    assert done.returncode == 0 and done.stderr == ""
    assert {"aaa", "base_plugin"} <= listed(done)["strategies"]


def test_an_interrupt_is_no_broken_plugin(tmp_path: Path) -> None:
    install(tmp_path, "slow", "raise KeyboardInterrupt")
    done = nlpcl(tmp_path, "list", "--json")
    assert done.returncode == 130 and "slow" not in done.stdout


def test_two_classes_of_one_name_are_an_error_and_leave_the_first() -> None:
    registry: Registry[StrategyEntry] = Registry("strategy", "nlpcl.strategies")
    first, second = type("First", (), {}), type("Second", (), {})
    registry.add(StrategyEntry("toy", first, title="t"))
    for name, aliases in (("toy", ()), ("other", ("TOY",))):
        with pytest.raises(ValueError, match=r"(?i)\btoy\b"):
            registry.add(StrategyEntry(name, second, title="t", aliases=aliases))
    assert registry.get("toy").target is first
    registry.add(StrategyEntry("toy", type("First", (), {}), title="again"))  # a cell of a notebook that is run again
    assert registry.get("toy").title == "again"
