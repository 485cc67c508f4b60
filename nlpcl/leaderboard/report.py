"""Write a comparison as tables (terminal, Markdown, LaTeX), CSV or JSON, and draw its ranks."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nlpcl.config.files import write_atomically
from nlpcl.errors import UsageError
from nlpcl.leaderboard.compare import Comparison

LATEX = str.maketrans({
    **{c: f"\\{c}" for c in "&%$#_{}"},
    **{"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"},
    **{"<": r"\textless{}", "±": r"$\pm$", "−": "$-$"},
})  # fmt: skip


@dataclass(frozen=True)
class TextTable:
    """A caption, column titles, and rows of text. The first column holds names, the others figures."""

    caption: str
    columns: list[str]
    rows: list[list[str]]


def tables(comparison: Comparison) -> list[TextTable]:
    """Return the table of methods, in percent, and that of pairs, in percentage points."""
    return [_methods(comparison), _pairs(comparison)]


def sentences(comparison: Comparison) -> list[str]:
    """Return the sentences that stand below the tables."""
    c = comparison
    ranked = []
    if c.ranking is not None:
        r = c.ranking
        ranked = [
            f"Friedman's chi-squared {r.statistic:.2f} with {len(c.labels) - 1} degrees of freedom, p {_p(r.p)}. "
            f"Nemenyi's critical difference of average ranks at {c.alpha:g}: {r.critical_difference:.2f}."
        ]
    return ranked + c.notes


def _methods(c: Comparison) -> TextTable:
    columns = ["method", "runs", "mean", "sd"] + (["average rank"] if c.ranking else [])
    rows = []
    for i, label in enumerate(c.labels):
        column = 100 * c.values[:, i]
        spread = f"{column.std(ddof=1):.2f}" if len(column) > 1 else ""
        rank = [f"{c.ranking.ranks[i]:.2f}"] if c.ranking else []
        rows.append([label, str(len(column)), f"{column.mean():.2f}", spread, *rank])
    return TextTable(f"{_words(c.metric)}, %", columns, rows)


def _pairs(c: Comparison) -> TextTable:
    columns = ["pair", "difference", "95 % t interval", "Wilcoxon p", "Holm p"]
    columns += (["Nemenyi p"] if c.ranking else []) + ["better"]
    rows = []
    for pair in c.pairs:
        ends = "" if pair.interval is None else " to ".join(_signed(end) for end in pair.interval)
        nemenyi = [_p(_nemenyi(c, pair.first, pair.second))] if c.ranking else []
        row = [f"{pair.first} − {pair.second}", _signed(pair.difference), ends, _p(pair.p), _p(pair.p_holm), *nemenyi]
        rows.append([*row, pair.better or "-"])
    return TextTable(f"difference in {_words(c.metric)}, percentage points", columns, rows)


def _nemenyi(c: Comparison, first: str, second: str) -> float:
    assert c.ranking is not None
    return float(c.ranking.nemenyi[c.labels.index(first), c.labels.index(second)])


def _words(metric: str) -> str:
    return metric.replace("_", " ")


def _signed(fraction: float) -> str:
    return f"{100 * fraction:+.2f}".replace("-", "−")


def _p(p: float) -> str:
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def markdown_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table whose first column is text and whose others are figures."""
    rule = ["---", *["---:"] * (len(columns) - 1)]
    return "\n".join(f"| {' | '.join(line)} |" for line in (columns, rule, *rows))


def markdown(comparison: Comparison) -> str:
    """Return two tables and the sentences below them."""
    parts = []
    for table in tables(comparison):
        rows = [[cell.replace("|", r"\|") for cell in row] for row in table.rows]
        parts.append(f"{table.caption}:\n\n{markdown_table(table.columns, rows)}")
    return "\n\n".join([*parts, *sentences(comparison)]) + "\n"


def latex(comparison: Comparison) -> str:
    """Return two `tabular`s with the rules of the package booktabs; the sentences are comments."""
    parts = []
    for table in tables(comparison):
        columns, *rows = (" & ".join(cell.translate(LATEX) for cell in row) for row in (table.columns, *table.rows))
        body = " \\\\\n".join(rows)
        parts.append(
            f"% {table.caption}\n\\begin{{tabular}}{{l{'r' * (len(table.columns) - 1)}}}\n\\toprule\n{columns} \\\\\n"
            f"\\midrule\n{body} \\\\\n\\bottomrule\n\\end{{tabular}}"
        )
    comments = [f"% {' '.join(sentence.split())}" for sentence in sentences(comparison)]
    return "\n".join([*parts, *comments]) + "\n"


def as_csv(comparison: Comparison) -> str:
    """Return a line for each pair; figures are fractions, not rounded."""
    import pandas as pd

    lines = [{"metric": comparison.metric, **pair} for pair in as_json(comparison)["pairs"]]
    for line in lines:
        line["low"], line["high"] = line.pop("interval") or (None, None)
    return pd.DataFrame(lines).to_csv(index=False, lineterminator="\n")


def as_json(comparison: Comparison) -> dict[str, Any]:
    """Return all of a comparison; figures are fractions, not rounded."""
    c = comparison
    means = dict(zip(c.labels, map(float, c.values.mean(axis=0)), strict=True))
    pairs = []
    for pair in c.pairs:
        facts = {"first": pair.first, "second": pair.second, "runs": len(c.blocks)}
        facts |= {"mean_first": means[pair.first], "mean_second": means[pair.second], "difference": pair.difference}
        facts |= {"interval": pair.interval, "wilcoxon_p": pair.p, "holm_p": pair.p_holm}
        facts |= {"nemenyi_p": _nemenyi(c, pair.first, pair.second) if c.ranking else None, "better": pair.better}
        pairs.append(facts)
    ranking = c.ranking and {
        "average_ranks": dict(zip(c.labels, map(float, c.ranking.ranks), strict=True)),
        "friedman_chi2": c.ranking.statistic,
        "friedman_p": c.ranking.p,
        "critical_difference": c.ranking.critical_difference,
    }
    values = {label: [float(x) for x in c.values[:, i]] for i, label in enumerate(c.labels)}
    blocks = [{"order": order, "seed": seed} for order, seed in c.blocks]
    head = {"metric": c.metric, "alpha": c.alpha, "blocks": blocks, "values": values}
    return {**head, "pairs": pairs, "ranking": ranking, "notes": c.notes}


def plot_ranks(comparison: Comparison, path: Path) -> None:
    """Draw average ranks, with a bar over methods that Nemenyi's test does not distinguish.

    :raises UsageError: there are fewer than three methods or two runs, the file's suffix is unknown, or scikit-posthocs
        is missing.
    """
    c = comparison
    if c.ranking is None:
        raise UsageError("--plot shows ranks: it needs three or more methods and two or more runs of each.")
    if path.suffix.lower() not in (".png", ".svg", ".pdf"):
        raise UsageError(f"--plot must end in .png, .svg or .pdf, not {path.name!r}.")
    try:
        from scikit_posthocs import critical_difference_diagram
    except ImportError as error:
        raise UsageError("--plot comes with the extra leaderboard: pip install 'nlpcl[leaderboard]'.") from error
    import pandas as pd
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    labels = [
        label.replace("$", r"\$") for label in c.labels
    ]  # matplotlib reads what stands between two $ as a formula
    figure = Figure(figsize=(8, 1.6 + 0.2 * len(c.labels)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    critical_difference_diagram(
        pd.Series(c.ranking.ranks, labels),
        pd.DataFrame(np.asarray(c.ranking.nemenyi), labels, labels),
        alpha=c.alpha,
        ax=axes,
        label_fmt_left="{label} ({rank:.2f})",
        label_fmt_right="({rank:.2f}) {label}",
    )
    runs, difference = len(c.blocks), c.ranking.critical_difference
    title = (
        f"average rank by {_words(c.metric)} over {runs} runs of each (1 is best), critical difference {difference:.2f}"
    )
    axes.set_title(title, fontsize="medium")
    content = io.BytesIO()
    figure.savefig(content, format=path.suffix[1:].lower(), dpi=150)
    write_atomically(path, content.getvalue())
