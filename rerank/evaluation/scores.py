"""What measuring one run gives: values query by query, and those that only the whole run has. Measures nothing."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from rerank.errors import DataError, UsageError
from rerank.evaluation.grades import reading
from rerank.evaluation.measures import check_by_query, is_total


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """The values of one run.

    Guarantees: every measure in ``values`` has a finite value for every judged query, in the order of the judgments.

    Attributes:
        run: The run's name.
        values: Measure (as ir_measures prints it, in the order asked) -> query id -> value.
        overall: Measure -> value, for those that have one value for the whole run and none for a query. They are
            shown beside the others and cannot be tested.
        queries: The judged queries; left out, those of ``values``.
        missing: Judged queries for which the run has no document; they score 0.
        unjudged: Queries of the run without judgments; they are left out.
    """

    run: str
    values: Mapping[str, Mapping[str, float]]
    overall: Mapping[str, float] = field(default_factory=dict)
    queries: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    unjudged: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check the invariants."""
        if not self.queries:
            object.__setattr__(self, "queries", tuple(next(iter(self.values.values()), {})))
        for measure, row in self.values.items():
            if not row or row.keys() != set(self.queries):
                raise DataError(f"{measure} of run {self.run!r} covers other queries than the first measure, or none")
            for query, value in row.items():
                if not math.isfinite(value):
                    raise DataError(f"{measure} of run {self.run!r} is {value} for query {query!r}")
        for measure, value in self.overall.items():
            if measure in self.values or not math.isfinite(value):
                raise DataError(
                    f"{measure} of run {self.run!r} is {value} for the whole run",
                    expected="a finite number, for a measure without values by query",
                )

    @property
    def measures(self) -> tuple[str, ...]:
        """The measures' names, in the order asked; those of the whole run come last."""
        return (*self.values, *self.overall)

    def by_measure(self, measure: str) -> Mapping[str, float]:
        """Query id -> value of one measure.

        Raises:
            UsageError: The measure was not asked for, or has no values query by query.
        """
        if measure in self.values:
            return self.values[measure]
        if measure in self.overall:
            check_by_query(measure)
        raise UsageError(
            f"Run {self.run!r} has no {measure}",
            expected=f"one of: {', '.join(self.values)}" if self.values else "a measure with values query by query",
        )

    def mean(self, measure: str) -> float:
        """The arithmetic mean over all judged queries, missing ones included.

        Raises:
            UsageError: The measure was not asked for, or has no values query by query; see `overall`.
        """
        row = self.by_measure(measure)
        return math.fsum(row.values()) / len(row)

    def summary(self) -> dict[str, float]:
        """Measure -> its mean; for the counts (NumQ, NumRel, NumRet) the total, as trec_eval prints them.

        The measures of the whole run come last, with the value that they have.
        """
        means = {
            name: math.fsum(row.values()) if is_total(name) else self.mean(name) for name, row in self.values.items()
        }
        return {**means, **self.overall}

    def by_query(self) -> dict[str, dict[str, float]]:
        """The same values turned around: query id -> measure -> value."""
        return {query: {name: row[query] for name, row in self.values.items()} for query in self.queries}


def evaluation_report(
    qrels_name: str, scores: Iterable[tuple[str, Scores]], *, per_query: bool = False
) -> dict[str, Any]:
    """What ``rerank eval --format json`` prints.

    Args:
        qrels_name: The judgments, as the user named them.
        scores: The runs as the user named them, with their scores.
        per_query: Whether to add every query's values, as query -> measure -> value.

    Returns:
        ``qrels``, ``grades`` (measure -> how it reads grades, of those that do) and ``runs``; a run has ``run``,
        ``queries`` (judged ones), ``missing`` and ``unjudged`` (how many) and ``scores``.
    """
    runs: list[dict[str, Any]] = []
    readings: dict[str, str] = {}
    for name, entry in scores:
        row: dict[str, Any] = {
            "run": name,
            "queries": len(entry.queries),
            "missing": len(entry.missing),
            "unjudged": len(entry.unjudged),
            "scores": entry.summary(),
        }
        runs.append({**row, "per_query": entry.by_query()} if per_query else row)
        readings = readings or {measure: text for measure in entry.measures if (text := reading(measure))}
    return {"qrels": qrels_name, "grades": readings, "runs": runs}
