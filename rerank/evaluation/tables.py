"""Tables of scores, and the number formats used by all tables of this package."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from rerank.evaluation.comparison_family import library_versions
from rerank.evaluation.scores import Scores
from rerank.io.reports import Cell, Grid, TableReport, format_tables


def table_of_scores(scores: Iterable[tuple[str, Scores]], *, markdown: bool = False, digits: int = 4) -> str:
    """Format a table with one row per run: number of queries, number of missing queries, and each measure.

    All scores must have the same measures. The table is aligned text, or Markdown.
    """
    entries = list(scores)
    measures = entries[0][1].measures if entries else ()
    rows = []
    for run, entry in entries:
        values = [format_score(value, digits) for value in entry.summary().values()]
        rows.append([run, str(len(entry.queries)), str(len(entry.missing)), *values])
    return format_tables([Grid(["run", "queries", "missing", *measures], rows)], [], "markdown" if markdown else "text")


def table_of_evaluation(
    qrels: str, scores: Sequence[Scores], *, digits: int = 4, columns: Sequence[Mapping[str, str]] = ()
) -> TableReport:
    """Return a table for a paper with one row per run, sorted by the first measure. The best values are bold.

    Args:
        qrels: Name of the judgments, as given by the user; the legend shows it without folders.
        scores: Scores of at least one run, all with the same measures.
        columns: Further columns, one mapping of headings to cells per run.
    """
    more = columns or [{}] * len(scores)
    measures, summaries = scores[0].measures, [entry.summary() for entry in scores]
    best = {measure: max(summary[measure] for summary in summaries) for measure in measures}
    rows: list[list[str | Cell]] = [
        [
            entry.run,
            str(len(entry.queries)),
            str(len(entry.missing)),
            *(Cell(format_score(value, digits), "", value == best[m]) for m, value in summary.items()),
            *added.values(),
        ]
        for entry, summary, added in sorted(zip(scores, summaries, more, strict=True), key=lambda t: -t[1][measures[0]])
    ]
    versions = ", ".join(f"{name} {number}" for name, number in library_versions().items())
    legend = [
        f"Means over {len(scores[0].queries)} queries, judgments: {qrels.rpartition('/')[2]}. "
        f"Queries without a ranking score 0. Bold: best value. Versions: {versions}."
    ]
    if more[0]:
        legend.append(
            "judged@k: fraction of judged documents among the first k; bounds: smallest and largest value that judging "
            "the others could lead to."
        )
    return TableReport([Grid(["run", "queries", "missing", *measures, *more[0]], rows)], legend)


def format_score(value: float, digits: int) -> str:
    """Format a score. A whole number larger than 1 is treated as a count and gets no decimals."""
    return str(int(value)) if value.is_integer() and abs(value) > 1 else f"{value:.{digits}f}"


def format_interval(low: float, high: float, digits: int) -> str:
    """Format a confidence interval."""
    return f"[{low:.{digits}f}, {high:.{digits}f}]"


def format_share(value: float | None) -> str:
    """Format a fraction with two decimals; a dash if it is unknown."""
    return "-" if value is None else f"{value:.2f}"


def format_p_value(p: float | None) -> str:
    """Format a p-value with four decimals.

    A value that would be printed as 0 becomes ``<0.0001``, and None becomes a dash.
    """
    if p is None:
        return "-"
    return f"{p:.4f}" if p >= 0.00005 else "<0.0001"
