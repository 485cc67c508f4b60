"""Your own data as files: which file holds which part of which task, and the SHA-256 of each.

root/<task>/train.csv, test.csv, valid.csv     one folder a task
root/train.csv, test.csv                       all tasks in one table, whose rows name them
root.csv                                       the same in one file
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from nlpcl.benchmarks.folder._problems import Problems, listed
from nlpcl.config.files import known_sha256
from nlpcl.config.orders import check_names
from nlpcl.errors import UsageError

PARTS = {
    "train": ("train", "training"),
    "valid": ("valid", "validation", "val", "dev", "development"),
    "test": ("test", "testing"),
}
ZIPPED = (".csv", ".tsv", ".jsonl", ".json")
SUFFIXES = (*ZIPPED, ".parquet")
READABLE = ".csv, .tsv, .jsonl, .json (each also .gz) or .parquet"
# Files that accompany data and hold none; so do hidden ones, and those with an underscore first unless they hold data.
COMPANIONS = ("readme", "license", "licence", "copying", "notice", "citation", "changelog", "thumbs", "desktop")
ALL_TASKS = ""
"""Stands for the task of a table whose rows name their tasks."""


def part_named(name: str) -> str | None:
    """Return the part that `name` names, in any case: `train`, `valid`, `test`, or None."""
    return next((part for part, names in PARTS.items() if name.lower() in names), None)


def suffix_of(file: Path) -> str:
    """Return the suffix that says a file's format, in lower case: `.csv` of `Train.CSV.gz`; "" if none is known."""
    name = file.name.lower()
    if name.endswith(".gz"):
        name = name.removesuffix(".gz")
        return next((suffix for suffix in ZIPPED if name.endswith(suffix)), "")
    return next((suffix for suffix in SUFFIXES if name.endswith(suffix)), "")


def files_of(root: Path, tasks: Sequence[str] | None = None) -> dict[str, str]:
    """Return the SHA-256 of every file that a run on the data in `root` reads, by path; nothing is parsed.

    :param root: the folder, or the one file.
    :param tasks: only the files of these tasks; None: of all.
    :return: by path relative to `root`, with `/` on every system; of a single file by `data` and its suffix.
    :raises UsageError: `root` is not there, or holds files that are no part of a task.
    """
    problems = Problems()
    folders = layout(root, problems)
    if tasks is not None and ALL_TASKS not in folders:
        check_names(tasks, list(folders), f"{root}: ")
        folders = {task: folders[task] for task in tasks}
    files = {
        key_of(task, file, folder): file
        for task, folder in folders.items()
        for file in parts_in(folder, problems).values()
    }
    problems.check(str(root))
    return {key: known_sha256(file) for key, file in files.items()}


def key_of(task: str, file: Path, source: Path) -> str:
    """Return the name under which a record keeps the SHA-256 of a task's file: `task/train.csv`.

    A file that holds all tasks may be renamed, but its suffix says how it is read.

    :param source: the folder that holds the file, or the file itself where the user named it.
    """
    if not task and file == source:
        return f"data{suffix_of(file)}"
    return f"{task}/{file.name}" if task else file.name


def layout(root: Path, problems: Problems) -> dict[str, Path]:
    """Return the folder of each task, by the task's name, sorted.

    Of a single file, or of a folder that holds the parts themselves, it is that under the name `ALL_TASKS`.

    :param problems: gets what lies beside the tasks and is not read.
    :raises UsageError: `root` is not there, or holds no data.
    """
    if root.is_file():
        return {ALL_TASKS: root}
    if not root.is_dir():
        raise UsageError(f"{root} is not a folder or a file.")
    entries = _entries(root)
    folders = [path for path in entries if path.is_dir() and path.name[0] != "_"]
    stray = [path for path in entries if path not in folders]
    if not folders and any(part_named(_stem(path)) for path in stray):
        return {ALL_TASKS: root}
    if not folders:
        beside = f", only {listed(path.name for path in stray)}" if stray else ""
        raise UsageError(f"{root} holds no <task>/train.csv (or {READABLE}){beside}.")
    if stray:
        problems.append(
            f"{listed(path.name for path in stray)} in {root} would not be read: a task's files lie in a "
            f"folder of its own, as {folders[0].name}/train.csv, and no task's name begins with an underscore"
        )
    return {folder.name: folder for folder in folders}


def parts_in(folder: Path, problems: Problems) -> dict[str, Path]:
    """Return the files of the parts that a folder holds.

    :param folder: or a single file, which is then the training part.
    :param problems: gets what would not be read, and the second file of a part.
    """
    if folder.is_file():
        return {"train": folder}
    parts: dict[str, Path] = {}
    with problems.caught():
        for path in _entries(folder):
            part = part_named(_stem(path))
            if not path.is_file():
                kind = "is a folder" if path.is_dir() else "leads nowhere"
                problems.append(f"{path} {kind} and would not be read: a part is one file, {READABLE}")
            elif not suffix_of(path) or part is None:
                known = "" if suffix_of(path) else f"; its name must end with {READABLE}"
                what = "" if part else "; a part is called train, valid or test"
                problems.append(f"{path} would not be read{what}{known}")
            elif part in parts:
                problems.append(f"{parts[part]} and {path.name} are both the part {part}: keep one")
            else:
                parts[part] = path
    return parts


def _stem(path: Path) -> str:
    """Return a file's name without the suffixes that say its format, or without its last one."""
    suffix = suffix_of(path)
    name = path.name[:-3] if suffix and path.name.lower().endswith(".gz") else path.name
    return name[: -len(suffix)] if suffix else path.stem


def _entries(folder: Path) -> list[Path]:
    try:
        paths = sorted(folder.iterdir())
    except OSError as error:
        raise UsageError(f"{folder} cannot be read ({error.strerror}).") from error
    return [path for path in paths if not _accompanies(path)]


def _accompanies(path: Path) -> bool:
    if path.name[0] == "_":
        inner = path.glob("*") if path.is_dir() else [path]
        return not any(suffix_of(file) and file.name[0] != "." for file in inner)
    companion = _stem(path).lower() in COMPANIONS and not suffix_of(path) and not path.is_dir()
    return companion or path.name[0] == "."
