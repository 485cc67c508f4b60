"""Write the leaderboard as Markdown tables between two marks of a README."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from nlpcl.config.files import check_plain, write_atomically
from nlpcl.errors import UsageError
from nlpcl.leaderboard.cells import method_name, protocol_words, settings_of, spread
from nlpcl.leaderboard.published import Figures, beside
from nlpcl.leaderboard.report import markdown_table, markdown_text
from nlpcl.leaderboard.rows import RANKED, Protocol, Row, by_protocol

BEGIN, END = "<!-- leaderboard -->", "<!-- end of leaderboard -->"
_COLUMNS = ("method", "runs", "accuracy", "macro-F1", "forgetting", "average rank", "published", "difference")


def update_readme(readme: Path, rows: Sequence[Row], published: Figures) -> bool:
    """Put the tables between the marks, and return whether that changes the file.

    :raises UsageError: the file cannot be read or written, or has not one pair of marks.
    """
    check_plain(readme)
    try:
        text = readme.read_text(encoding="utf-8")
        if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
            raise UsageError(f"{readme} needs one line {BEGIN} and, after it, one line {END}.")
        before, after = text[: text.index(BEGIN)], text[text.index(END) :]
        changed = f"{before}{BEGIN}\n{markdown_tables(rows, published)}\n{after}"
        if changed != text:
            write_atomically(readme, changed.encode())
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot update {readme} ({error}).") from error
    return changed != text


def markdown_tables(rows: Sequence[Row], published: Figures) -> str:
    """Return a table for each protocol, with figures in percent and differences in percentage points."""
    if not rows:
        return "No records yet."
    settings = settings_of(rows)
    return "\n\n".join(_table(members[0].protocol, members, settings, published) for members in by_protocol(rows))


def _table(protocol: Protocol, rows: Sequence[Row], settings: Mapping[tuple[str, str], str], published: Figures) -> str:
    head = protocol_words(protocol)
    caption = f"**{markdown_text(head['benchmark'])}** {markdown_text(head['rest'])}: {markdown_text(head['budget'])}"
    cells = [_cells(row, method_name(row, settings), published) for row in rows]
    used = [i for i in range(len(_COLUMNS)) if any(line[i] for line in cells)]
    notes = sorted({note for row in rows if (figure := beside(row, published, RANKED)) for note in figure.unlike})
    below = [f"† published under another protocol: {markdown_text('; '.join(notes))}."] if notes else []
    table = markdown_table([_COLUMNS[i] for i in used], ([line[i] for i in used] for line in cells))
    return "\n\n".join([caption, table, *_draws(rows, settings), *below])


def _draws(rows: Sequence[Row], settings: Mapping[tuple[str, str], str]) -> list[str]:
    """Return whether spreads contain the draw of the training examples: one sentence, or one for each that differs."""
    methods: dict[str, list[str]] = {}
    for row in rows:
        if row.draw:
            methods.setdefault(row.draw, []).append(markdown_text(method_name(row, settings)))
    return list(methods) if len(methods) == 1 else [f"{', '.join(names)}: {draw}" for draw, names in methods.items()]


def _cells(row: Row, name: str, published: Figures) -> list[str]:
    scores, figure = row.scores, beside(row, published, RANKED)
    return [
        markdown_text(name),
        str(len(row.runs)),
        *(spread(scores[name]) for name in (RANKED, "macro_f1", "forgetting")),
        f"{row.rank.value:.2f}" if row.rank else "",
        figure.value_as_text if figure else "",
        figure.difference_as_text if figure else "",
    ]
