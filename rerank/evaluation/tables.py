"""Scores and comparisons as text: aligned columns for terminals and files, or Markdown. Computes nothing."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence

from rerank.evaluation.comparison import Comparison
from rerank.evaluation.scores import Scores


def scores_table(scores: Iterable[tuple[str, Scores]], *, markdown: bool = False, digits: int = 4) -> str:
    """One row a run: queries, missing queries, and each measure.

    Args:
        scores: The runs' names and scores, all with the same measures.
        markdown: A Markdown table instead of aligned text.
        digits: Decimals of the values.
    """
    listed = list(scores)
    names = listed[0][1].measures if listed else ()
    rows = [
        [run, str(len(entry.queries)), str(len(entry.missing)), *(_number(v, digits) for v in entry.summary().values())]
        for run, entry in listed
    ]
    return _table(["run", "queries", "missing", *names], rows, markdown)


def comparison_table(comparison: Comparison, *, markdown: bool = False, digits: int = 4) -> str:
    """Two tables, the runs and the pairs, then what the numbers are and what to beware of.

    Args:
        comparison: What to show.
        markdown: Markdown tables instead of aligned text.
        digits: Decimals of scores and differences.
    """
    runs = [[r.run, _number(r.mean, digits), _interval(r.low, r.high, digits)] for r in comparison.runs]
    pairs = [
        [
            p.a,
            p.b,
            f"{p.difference:+.{digits}f}",
            _interval(p.low, p.high, digits),
            f"{p.wins}/{p.ties}/{p.losses}",
            _p_value(p.p),
            _p_value(p.p_adjusted) + ("*" if p.significant else ""),
            _p_value(p.p_wilcoxon),
            _p_value(p.p_wilcoxon_adjusted),
        ]
        for p in comparison.pairs
    ]
    heads = ["a", "b", "a - b", "95% interval", "win/tie/loss", "p (t)", "Holm", "p (Wilcoxon)", "Holm"]
    legend = (
        f"* significant: p of the paired t-test, after Holm's correction over {len(pairs)} "
        f"pair{'s' * (len(pairs) != 1)}, is at most {comparison.alpha:g}; {comparison.queries} queries."
    )
    legend = legend.replace("* ", "\\* ", 1) if markdown else legend
    blocks = [
        _table(["run", comparison.measure, "95% interval"], runs, markdown),
        _table(heads, pairs, markdown),
        "\n\n".join([legend, *comparison.notes]) if markdown else "\n".join([legend, *comparison.notes]),
    ]
    return "\n\n".join(blocks)


def _number(value: float, digits: int) -> str:
    return str(int(value)) if value.is_integer() and abs(value) > 1 else f"{value:.{digits}f}"


def _interval(low: float, high: float, digits: int) -> str:
    return f"[{low:.{digits}f}, {high:.{digits}f}]"


def _p_value(p: float) -> str:
    """Four decimals; what would print as 0 is given as a bound."""
    return f"{p:.4f}" if p >= 0.00005 else "<0.0001"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]], markdown: bool) -> str:
    """The first column to the left, the rest to the right."""
    if markdown:
        lines = [[cell.replace("|", "\\|") for cell in row] for row in [heads, *rows]]
        rule = ["---", *["---:"] * (len(heads) - 1)]
        return "\n".join(f"| {' | '.join(cells)} |" for cells in [lines[0], rule, *lines[1:]])
    widths = [max(map(_width, column)) for column in zip(heads, *rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell + _pad(cell, width) if at == 0 else _pad(cell, width) + cell
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in [heads, *rows]
    )


def _pad(cell: str, width: int) -> str:
    return " " * (width - _width(cell))


def _width(text: str) -> int:
    """Columns of a terminal that a text takes; Chinese characters take two."""
    return sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in text)
