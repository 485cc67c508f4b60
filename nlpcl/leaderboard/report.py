"""Write a comparison as tables (terminal, Markdown, LaTeX), CSV or JSON, and draw its ranks."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from nlpcl.config.files import file_errors, replacing
from nlpcl.errors import UsageError, printable
from nlpcl.leaderboard.compare import Comparison
from nlpcl.leaderboard.files import signed

LATEX = str.maketrans({
    **{c: f"\\{c}" for c in "&%$#_{}"},
    **{"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"},
    **{"<": r"\textless{}", "±": r"$\pm$", "−": "$-$"},
})  # fmt: skip
_MARKDOWN = str.maketrans(
    {c: f"&#{ord(c)};" for c in "\\|`*[]~$#"} | {"_": r"\_", "<": "&lt;", ">": "&gt;", "&": "&amp;"}
)
_LIST = re.compile(r"^([-+]|\d+[.)])(?!\w)")
_ADDRESS = re.compile(r":(?=\S)|\.(?=[^\W\d_])")  # https://x, www.x, x.org
_MENTION = re.compile(r"@(?=\S*\.)|(?<!\w)@")  # someone@x.org, @someone


class TextTable(NamedTuple):
    """A caption, column titles, and rows of text. The first column holds names, the others figures."""

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


def tables(comparison: Comparison) -> list[TextTable]:
    """Return the table of methods, in percent, and that of pairs, in percentage points."""
    c, metric = comparison, _words(comparison.metric)
    methods = []
    for label, column in zip(c.labels, 100 * c.values.T, strict=True):
        spread = f"{column.std(ddof=1):.2f}" if len(column) > 1 else ""
        rank = [f"{c.ranking.average_ranks[label]:.2f}"] if c.ranking else []
        methods.append([label, str(len(column)), f"{column.mean():.2f}", spread, *rank])
    pairs = []
    for pair in c.pairs:
        interval = " to ".join(signed(end, 2) for end in pair.interval or ())
        p = [_p(p) for p in (pair.wilcoxon_p, pair.holm_p, pair.nemenyi_p) if p is not None]
        name = f"{pair.first} − {pair.second}"
        pairs.append([name, signed(pair.difference, 2), interval, *p, pair.better or "-"])
    rank_titles, p_titles = (["average rank"], ["Nemenyi p"]) if c.ranking else ([], [])
    pair_titles = ["pair", "difference", "95 % t interval", "Wilcoxon p", "Holm p", *p_titles, "better"]
    return [
        TextTable(f"{metric}, %", ["method", "runs", "mean", "sd", *rank_titles], methods),
        TextTable(f"difference in {metric}, percentage points", pair_titles, pairs),
    ]


def sentences(comparison: Comparison) -> list[str]:
    """Return the sentences that stand below the tables."""
    c, r = comparison, comparison.ranking
    if r is None:
        return c.notes
    return [
        f"Friedman's chi-squared {r.friedman_chi2:.2f} with {len(c.labels) - 1} degrees of freedom, "
        f"p {_p(r.friedman_p)}. Nemenyi's critical difference of average ranks at {c.alpha:g}: "
        f"{r.critical_difference:.2f}.",
        *c.notes,
    ]


def _words(metric: str) -> str:
    return metric.replace("_", " ")


def _p(p: float) -> str:
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def _reference(found: re.Match[str]) -> str:
    return f"&#{ord(found[0])};"


def markdown_text(words: str) -> str:
    """Return Markdown, also for a cell of a table, that shows a text as it stands: one line without any markup or link.

    An address is broken by character references, one of mail and a mention by a comment too, since GitHub looks for
    these once references are read.
    """
    text = _ADDRESS.sub(_reference, _MENTION.sub("@<!-- -->", printable(words).translate(_MARKDOWN)))
    return _LIST.sub(lambda found: f"{found[0][:-1]}&#{ord(found[0][-1])};", text)


def markdown_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table whose first column is text and whose others are figures."""
    rule = ["---", *["---:"] * (len(columns) - 1)]
    return "\n".join(f"| {' | '.join(line)} |" for line in (columns, rule, *rows))


def markdown(comparison: Comparison) -> str:
    """Return two tables and the sentences below them."""
    parts = []
    for caption, columns, rows in tables(comparison):
        escaped = ([markdown_text(cell) for cell in row] for row in rows)
        parts.append(f"{caption}:\n\n{markdown_table(columns, escaped)}")
    return "\n\n".join([*parts, *map(markdown_text, sentences(comparison))]) + "\n"


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

    lines = [{"metric": comparison.metric, **vars(pair)} for pair in comparison.pairs]
    for line in lines:
        line["low"], line["high"] = line.pop("interval") or (None, None)
    return pd.DataFrame(lines).to_csv(index=False, lineterminator="\n")


def as_json(comparison: Comparison) -> dict[str, Any]:
    """Return all of a comparison; figures are fractions, not rounded."""
    c = comparison
    return {
        "metric": c.metric,
        "alpha": c.alpha,
        "blocks": [{"order": order, "seed": seed} for order, seed in c.blocks],
        "values": dict(zip(c.labels, c.values.T.tolist(), strict=True)),
        "pairs": [vars(pair) for pair in c.pairs],
        "ranking": c.ranking and {name: value for name, value in vars(c.ranking).items() if name != "nemenyi"},
        "notes": c.notes,
    }


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
    from matplotlib.figure import Figure

    # matplotlib reads what stands between two $ as a formula.
    labels = [label.replace("$", r"\$") for label in c.labels]
    figure = Figure(figsize=(8, 1.6 + 0.2 * len(c.labels)), layout="constrained")
    axes = figure.subplots()
    critical_difference_diagram(
        pd.Series(list(c.ranking.average_ranks.values()), labels),
        pd.DataFrame(c.ranking.nemenyi, labels, labels),
        alpha=c.alpha,
        ax=axes,
        label_fmt_left="{label} ({rank:.2f})",
        label_fmt_right="({rank:.2f}) {label}",
    )
    runs = f"{len(c.blocks)} runs of each (1 is best)"
    difference = f"critical difference {c.ranking.critical_difference:.2f}"
    axes.set_title(f"average rank by {_words(c.metric)} over {runs}, {difference}", fontsize="medium")
    with file_errors(f"could not write {path}"), replacing(path) as temporary:
        figure.savefig(temporary, format=path.suffix[1:].lower(), dpi=150)
