"""Tables of scores and of pairwise decisions, and the number formats that all tables of this package share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from rerank.evaluation.scores import Scores
from rerank.evaluation.significance import TITLES
from rerank.io.table_formats import Form, Grid, format_tables


def table_of_scores(scores: Iterable[tuple[str, Scores]], *, markdown: bool = False, digits: int = 4) -> str:
    """Format one row per run: number of queries, number of missing queries, and each measure.

    Args:
        scores: Names and scores of the runs, all with the same measures.
        markdown: Return a Markdown table instead of aligned text.
        digits: Decimals of the values.
    """
    entries = list(scores)
    measures = entries[0][1].measures if entries else ()
    rows = [
        [
            run,
            str(len(entry.queries)),
            str(len(entry.missing)),
            *(format_measure_score(value, digits) for value in entry.summary().values()),
        ]
        for run, entry in entries
    ]
    return format_tables([Grid(["run", "queries", "missing", *measures], rows)], [], "markdown" if markdown else "text")


def table_of_significant_pairs(content: Mapping[str, Any], title: str, *, form: Form = "text", digits: int = 4) -> str:
    """Format one row per system, best mean first, followed by the number of different pairs and the notes.

    Args:
        content: What `PairwiseDecisions.to_dict` returns.
        title: Title of the significance test.
        form: Output format.
        digits: Decimals of the means.
    """
    systems = sorted(content["means"], key=lambda entry: -entry["mean"])
    rows = [
        [entry["system"], format_measure_score(entry["mean"], digits), str(entry["beats"]), str(entry["beaten_by"])]
        for entry in systems
    ]
    options = "".join(f", {key} {value}" for key, value in content["options"].items() if value is not None)
    line = (
        f"{content['significant']} of {content['pairs']} pairs of {content['systems']} systems differ on "
        f"{content['topics']} topics: {title}{options}, correction {TITLES[content['correction']]}, "
        f"significance level {content['alpha']:g}."
    )
    return format_tables([Grid(["system", "mean", "beats", "beaten by"], rows)], [line, *content["notes"]], form)


def format_measure_score(value: float, digits: int) -> str:
    """Format a score; whole numbers above 1 are counts and get no decimals."""
    return str(int(value)) if value.is_integer() and abs(value) > 1 else f"{value:.{digits}f}"


def format_confidence_interval(low: float, high: float, digits: int) -> str:
    """Format a confidence interval."""
    return f"[{low:.{digits}f}, {high:.{digits}f}]"


def format_p_value(p: float) -> str:
    """Format a p-value with four decimals; a value that would print as 0 becomes an upper bound."""
    return f"{p:.4f}" if p >= 0.00005 else "<0.0001"
