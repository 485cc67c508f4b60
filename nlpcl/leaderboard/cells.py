"""A row of the leaderboard as text, for the page and for Markdown tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from nlpcl.errors import printable
from nlpcl.leaderboard.files import shortened
from nlpcl.leaderboard.published import Figures, beside
from nlpcl.leaderboard.rows import RANKED, Protocol, Row, Score

# Name and title of each column; for figures also the order in which the best comes first.
PAGE_COLUMNS: tuple[tuple[str, str, str], ...] = (
    ("method", "Method", ""),
    ("benchmark", "Benchmark", ""),
    ("scenario", "Scenario", ""),
    ("backbone", "Backbone", ""),
    ("encoder", "Encoder", ""),
    ("accuracy", "Accuracy %", "desc"),
    ("rank", "Rank", "asc"),
    ("published", "Published %", "desc"),
    ("difference", "Difference", "desc"),
    ("macro_f1", "Macro-F1 %", "desc"),
    ("forgetting", "Forgetting", "asc"),
    ("seconds", "Seconds", "asc"),
    ("runs", "Runs", "desc"),
    ("budget", "Budget", ""),
)
LAST = {"asc": 1e9, "desc": -1e9}  # sorts missing figures behind all others


def shown(words: str) -> str:
    """Return a record's text on one line, cut, without characters that hide or turn others."""
    return shortened(printable(words))


def spread(score: Score | None) -> str:
    """Return mean and standard deviation in percent; empty if the score is missing."""
    if score is None:
        return ""
    mean = f"{100 * score.mean:.1f}".replace("-", "−")
    return mean if score.sd is None else f"{mean} ± {100 * score.sd:.1f}"


def seconds_as_text(seconds: float) -> str:
    """Return seconds with three digits, and from 100 on as a whole number."""
    return f"{seconds:,.0f}" if seconds >= 100 else f"{seconds:.3g}"


def settings_of(rows: Sequence[Row]) -> Mapping[tuple[str, str], str]:
    """Return the text to show for each (strategy, setting); texts that are alike once cut get a number."""
    texts: dict[tuple[str, str], str] = {}
    alike: Counter[tuple[str, str]] = Counter()
    for strategy, setting in dict.fromkeys((row.strategy, row.setting) for row in rows):
        words = (shown(strategy), shown(setting))
        alike[words] += 1
        number = f" ({alike[words]})" if alike[words] > 1 else ""
        texts[strategy, setting] = f"{words[1]}{number}".strip()
    return texts


def method_name(row: Row, settings: Mapping[tuple[str, str], str]) -> str:
    """Return the strategy's name, followed by its setting if it has several (see `settings_of`)."""
    return " ".join(filter(None, (shown(row.strategy), settings[row.strategy, row.setting])))


def protocol_words(protocol: Protocol) -> dict[str, str]:
    """Return the protocol as texts: `benchmark`, `rest` (scenario, backbone, encoder) and `budget`."""
    names = ("scenario", "backbone", "model")
    rest = shown(" · ".join(protocol[name] for name in names if protocol[name]))
    return {"benchmark": shown(protocol["benchmark"]), "rest": rest, "budget": shown(protocol.budget)}


def row_cells(row: Row, setting: str, published: Figures) -> dict[str, Any]:
    """Return the cells of a row of the page's table: texts, and figures with a number to sort by and a hint.

    :param setting: the text from `settings_of`.
    """
    protocol, scores, rank, figure = row.protocol, row.scores, row.rank, beside(row, published, RANKED)
    orders, seeds = len({order for order, _ in row.runs}), len({seed for _, seed in row.runs})
    figures: dict[str, tuple[float, str, str]] = {
        "runs": (len(row.runs), str(len(row.runs)), f"{orders} order(s), {seeds} seed(s)")
    }
    for name, metric in (("accuracy", RANKED), ("macro_f1", "macro_f1"), ("forgetting", "forgetting")):
        if score := scores[metric]:
            figures[name] = (score.mean, spread(score), "")
    if rank:
        figures["rank"] = (rank.value, f"{rank.value:.2f}", rank.basis)
    if row.seconds:
        figures["seconds"] = (row.seconds.mean, seconds_as_text(row.seconds.mean), "")
    if figure:
        figures["published"] = (figure.value, figure.value_as_text, figure.source)
    if figure and figure.difference is not None:
        figures["difference"] = (figure.difference, figure.difference_as_text, "; ".join(figure.unlike))
    cells: dict[str, Any] = {
        "id": row.id,
        "method": shown(row.strategy),
        "setting": setting,
        "benchmark": shown(protocol["benchmark"]),
        "scenario": shown(protocol["scenario"]),
        "backbone": shown(protocol["backbone"]),
        "encoder": shown(protocol["model"]),
        "budget": shown(protocol.budget),
    }
    for name, _, best in PAGE_COLUMNS:
        if best:
            number, words, hint = figures.get(name, (LAST[best], "", ""))
            cells[name] = {"text": words, "sort": round(number, 6), "hint": printable(hint)}
    return cells
