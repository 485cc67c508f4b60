"""What the page and the README show of a row, as text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from nlpcl.errors import printable
from nlpcl.leaderboard.files import shortened
from nlpcl.leaderboard.published import Beside, Figures, beside
from nlpcl.leaderboard.rows import RANKED, Protocol, Row, Score

# Name, title, and for figures the order in which the best comes first.
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
BEST_FIRST = {name: best for name, _, best in PAGE_COLUMNS}
LAST = {"asc": 1e9, "desc": -1e9}  # what is missing is sorted behind all figures


def shown(words: str) -> str:
    """Words of a record in one line, without the characters that hide or turn others, and not too long."""
    return shortened(printable(words))


def spread(score: Score | None) -> str:
    """Mean and standard deviation in percent; nothing where there is none."""
    if score is None:
        return ""
    mean = f"{100 * score.mean:.1f}".replace("-", "−")
    return mean if score.sd is None else f"{mean} ± {100 * score.sd:.1f}"


def signed(fraction: float) -> str:
    """A difference in percentage points."""
    return f"{100 * fraction:+.1f}".replace("-", "−")


def seconds_as_text(seconds: float) -> str:
    """Seconds with three digits, of more than a hundred all."""
    return f"{seconds:,.0f}" if seconds >= 100 else f"{seconds:.3g}"


def marked(found: Beside) -> str:
    """A dagger where the published figure is of another protocol."""
    return "†" if found.unlike else ""


def settings_of(rows: Sequence[Row]) -> Mapping[tuple[str, str], str]:
    """By strategy and setting what is shown of the setting; those that read alike, as they were cut, are numbered."""
    found: dict[tuple[str, str], str] = {}
    alike: Counter[tuple[str, str]] = Counter()
    for strategy, setting in dict.fromkeys((row.strategy, row.setting) for row in rows):
        words = (shown(strategy), shown(setting))
        alike[words] += 1
        number = f" ({alike[words]})" if alike[words] > 1 else ""
        found[strategy, setting] = f"{words[1]}{number}".strip()
    return found


def method_name(row: Row, settings: Mapping[tuple[str, str], str]) -> str:
    """The method, and its setting, as `settings_of` gives it, where there are several."""
    return " ".join(filter(None, (shown(row.strategy), settings[row.strategy, row.setting])))


def ranked(row: Row) -> str:
    """What an average rank is of."""
    rank = row.rank
    return f"by accuracy, of {rank.methods} methods over {rank.blocks} run(s) that all have" if rank else ""


def protocol_words(protocol: Protocol) -> dict[str, str]:
    """Benchmark, and in a line what else tells the protocol from others."""
    names = ("scenario", "backbone", "model")
    rest = shown(" · ".join(protocol[name] for name in names if protocol[name]))
    return {"benchmark": shown(protocol["benchmark"]), "rest": rest, "budget": shown(protocol.budget)}


def row_cells(row: Row, setting: str, published: Figures) -> dict[str, Any]:
    """A row of the page's table: texts, and figures as a text, a number to sort by and a hint; `setting` as shown."""
    protocol, scores, found = row.protocol, row.scores, beside(row, published, RANKED)
    orders, seeds = len({order for order, _ in row.runs}), len({seed for _, seed in row.runs})
    cells: dict[str, Any] = {
        "id": row.id,
        "method": shown(row.strategy),
        "setting": setting,
        "benchmark": shown(protocol["benchmark"]),
        "scenario": shown(protocol["scenario"]),
        "backbone": shown(protocol["backbone"]),
        "encoder": shown(protocol["model"]),
        "budget": shown(protocol.budget),
        "runs": _figure("runs", len(row.runs), str(len(row.runs)), f"{orders} order(s), {seeds} seed(s)"),
    }
    for name, metric in (("accuracy", RANKED), ("macro_f1", "macro_f1"), ("forgetting", "forgetting")):
        score = scores[metric]
        cells[name] = _figure(name, score.mean if score else None, spread(score))
    rank, seconds = row.rank, row.seconds.mean if row.seconds else None
    cells["rank"] = _figure("rank", rank.value if rank else None, f"{rank.value:.2f}" if rank else "", ranked(row))
    cells["seconds"] = _figure("seconds", seconds, seconds_as_text(seconds) if seconds else "")
    return {**cells, **_published(found)}


def _published(found: Beside | None) -> dict[str, Any]:
    if found is None:
        return {name: _figure(name, None, "") for name in ("published", "difference")}
    unlike, dagger, difference = "; ".join(found.unlike), marked(found), found.difference
    return {
        "published": _figure("published", found.value, f"{100 * found.value:.2f}{dagger}", found.source),
        "difference": _figure(
            "difference", difference, "" if difference is None else f"{signed(difference)}{dagger}", unlike
        ),
    }


def _figure(name: str, number: float | None, words: str, hint: str = "") -> dict[str, Any]:
    sort = LAST[BEST_FIRST[name]] if number is None else round(number, 6)
    return {"text": words, "sort": sort, "hint": printable(hint)}
