"""Scores of one run: values per query, and values that exist only for the whole run."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rerank.errors import DataError, UsageError
from rerank.evaluation.grade_notes import describe_grade_use
from rerank.evaluation.measures import check_measure_has_query_values, is_summed_measure


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """Scores of one run by one or several measures, per query or for the whole run.

    Guarantees: every measure in ``values`` has a finite value for every judged query, in the order of the judgments.

    Attributes:
        run: Name of the run.
        values: Value of each query id, for each measure (``values[measure][query]``). Measures are named as ir_measures
            prints them, in the order requested.
        overall: Value of each measure that has one value per run and no per-query values. These measures are reported
            together with the others, but significance tests cannot use them.
        queries: The judged queries; if omitted, the queries in ``values``.
        missing: Judged queries for which the run has no documents; they score 0.
        unjudged: Queries of the run without judgments; they are excluded.
    """

    run: str
    values: Mapping[str, Mapping[str, float]]
    overall: Mapping[str, float] = field(default_factory=dict)
    queries: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    unjudged: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check that every measure has a finite value for every judged query."""
        if not self.queries:
            object.__setattr__(self, "queries", tuple(next(iter(self.values.values()), {})))
        for measure, row in self.values.items():
            if not row or row.keys() != set(self.queries):
                raise DataError(
                    f"{measure} of run {self.run!r} does not cover the same queries as the first measure",
                    expected="a value for every judged query",
                )
            for query, value in row.items():
                if not math.isfinite(value):
                    raise DataError(
                        f"{measure} of run {self.run!r} is {value} for query {query!r}", expected="a finite number"
                    )
        for measure, value in self.overall.items():
            if measure in self.values or not math.isfinite(value):
                raise DataError(
                    f"{measure} of run {self.run!r} is {value} for the whole run",
                    expected="a finite number, for a measure without per-query values",
                )

    @property
    def measures(self) -> tuple[str, ...]:
        """Names of the measures in the order requested; whole-run measures come last."""
        return (*self.values, *self.overall)

    def by_measure(self, measure: str) -> Mapping[str, float]:
        """Return the value of one measure for each query id.

        Raises:
            UsageError: The measure was not computed, or has no per-query values.
        """
        if measure in self.values:
            return self.values[measure]
        if measure in self.overall:
            check_measure_has_query_values(measure)
        raise UsageError(
            f"The scores of run {self.run!r} do not include {measure}",
            expected=f"one of: {', '.join(self.values)}" if self.values else "a measure with per-query values",
        )

    def mean(self, measure: str) -> float:
        """Return the arithmetic mean of a measure over all judged queries, including queries missing from the run.

        Raises:
            UsageError: The measure was not computed, or it has no per-query values; its value is then in `overall`.
        """
        row = self.by_measure(measure)
        return math.fsum(row.values()) / len(row)

    def summary(self) -> dict[str, float]:
        """Return the mean of each measure over queries. Counts (NumQ, NumRel, NumRet) are summed, as in trec_eval.

        Whole-run measures come last, with their single value.
        """
        means = {
            name: math.fsum(row.values()) if is_summed_measure(name) else self.mean(name)
            for name, row in self.values.items()
        }
        return {**means, **self.overall}

    def by_query(self) -> dict[str, dict[str, float]]:
        """Return a mapping from each query id to the value of each measure."""
        return {query: {name: row[query] for name, row in self.values.items()} for query in self.queries}


def evaluation_report(
    qrels_name: str, scores: Iterable[tuple[str, Scores]], *, per_query: bool = False
) -> dict[str, Any]:
    """Build the JSON object of ``rerank eval --format json``.

    Args:
        qrels_name: Name of the judgments, as given by the user.
        scores: Pairs of a run's name and its scores.
        per_query: Whether to add the values of each query, as returned by `Scores.by_query`.

    Returns:
        An object with ``qrels``, ``grades`` (how each measure uses grades) and ``runs``. Each run has ``run`` (its
        name), ``queries`` (number of judged queries), ``missing`` and ``unjudged`` (numbers of queries) and ``scores``.
    """
    runs: list[dict[str, Any]] = []
    grade_use: dict[str, str] = {}
    for name, entry in scores:
        row: dict[str, Any] = {
            "run": name,
            "queries": len(entry.queries),
            "missing": len(entry.missing),
            "unjudged": len(entry.unjudged),
            "scores": entry.summary(),
        }
        runs.append({**row, "per_query": entry.by_query()} if per_query else row)
        grade_use = grade_use or {measure: text for measure in entry.measures if (text := describe_grade_use(measure))}
    return {"qrels": qrels_name, "grades": grade_use, "runs": runs}


def evaluation_records(report: Mapping[str, Any], covered: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Return the flat rows of an evaluation report for CSV, with one key per measure.

    Args:
        report: The report.
        covered: Measures whose judged fraction and bounds are added to the rows of whole runs.

    Returns:
        One row per run and group of queries if the report contains groups; otherwise one row per run and query if it
        contains per-query values; otherwise one row per run.
    """
    rows: list[dict[str, Any]] = []
    for row in report["runs"]:
        if "groups" in row:
            rows += [{"run": row["run"], "group": g, **part, **part["scores"]} for g, part in row["groups"].items()]
        elif "per_query" in row:
            rows += [{"run": row["run"], "query": query, **values} for query, values in row["per_query"].items()]
        else:
            coverage = {}
            for measure in covered:
                coverage[f"{measure}_judged"] = row["judged"][measure]
                if measure in row["bounds"]:
                    coverage |= dict(zip((f"{measure}_low", f"{measure}_high"), row["bounds"][measure], strict=True))
            rows.append({**row, **row["scores"], **coverage})
    return rows
