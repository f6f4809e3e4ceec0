"""Results of comparing systems with a baseline, as tables and JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rerank.evaluation.comparison_family import ComparisonFamily
from rerank.evaluation.score_matrix import ScoreMatrix
from rerank.evaluation.tables import (
    cells_of_means,
    format_confidence_interval,
    format_measure_score,
    format_p_value,
    format_share,
)
from rerank.io.reports import Cell, Grid, Report, TableReport

#: Marks at the mean of a run that is significantly above or below the baseline.
ABOVE, BELOW = "†", "‡"


@dataclass(frozen=True, slots=True, kw_only=True)
class BaselineRow:
    """Comparison of one system with the baseline on one measure.

    Attributes:
        run: Name of the system.
        measure: Name of the measure.
        mean: Mean score of the system.
        difference: Mean score of the system minus that of the baseline.
        interval: 1 - alpha confidence interval of the difference (paired t, for this comparison alone).
        simultaneous_interval: Interval of the difference; the intervals of all systems jointly cover the true
            differences with probability 1 - alpha.
        p: P-value of this comparison alone; None if the t-test cannot be computed.
        adjusted_p: P-value that takes all comparisons into account; None if the t-test cannot be computed.
        significant: Whether ``adjusted_p`` is at most alpha.
        judged: Fraction of the system's top documents that are judged; None if unknown.
        detectable: Smallest true difference that a paired t-test detects with a power of 0.8, given the number of
            topics and the standard deviation of the per-topic differences. The level of this test is alpha divided by
            the size of the family, or alpha if nothing is corrected.
        claims: The p-values ``equivalent_p`` and ``not_inferior_p``; empty if no margin was given.
    """

    run: str
    measure: str
    mean: float
    difference: float
    interval: tuple[float, float]
    simultaneous_interval: tuple[float, float]
    p: float | None
    adjusted_p: float | None
    significant: bool
    detectable: float
    judged: float | None = None
    claims: Mapping[str, float] = field(default_factory=dict)

    @property
    def mark(self) -> str:
        """Mark in tables: ``†`` if the system is significantly above the baseline, ``‡`` if below; otherwise empty."""
        return (ABOVE if self.difference > 0 else BELOW) if self.significant else ""

    def to_dict(self) -> dict[str, Any]:
        """Return the row as an entry of ``rows`` in the JSON output."""
        return {
            "run": self.run,
            "measure": self.measure,
            "mean": self.mean,
            "difference": self.difference,
            "interval": list(self.interval),
            "p": self.p,
            "adjusted_p": self.adjusted_p,
            "judged": self.judged,
            "significant": self.significant,
            "simultaneous_interval": list(self.simultaneous_interval),
            "detectable": self.detectable,
            **self.claims,
        }


@dataclass(frozen=True, eq=False, kw_only=True)
class BaselineComparison(Report):
    """Comparison of all systems with a baseline.

    Attributes:
        baseline: Name of the baseline.
        family: The hypotheses that were tested together, with the test and its correction.
        matrices: The scores, one matrix per measure.
        rows: One row per measure and system other than the baseline, in input order.
        margin: Margin of equivalence and non-inferiority; None if they were not tested.
        baseline_judged: Fraction of the baseline's top documents that are judged, for each measure; None if unknown.
        notes: Caveats for the reader.
    """

    rows_key = "rows"

    baseline: str
    family: ComparisonFamily
    matrices: tuple[ScoreMatrix, ...]
    rows: tuple[BaselineRow, ...]
    margin: float | None = None
    baseline_judged: Mapping[str, float | None] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def tables(self, digits: int = 4) -> TableReport:
        """Return a table of means, a table of comparisons, their legend and the notes."""
        grids = [self._table_of_means(digits), self._table_of_comparisons(digits)]
        return TableReport(grids, self._legend(), self.notes)

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON object of ``rerank compare --baseline B --format json``."""
        return {
            "baseline": self.baseline,
            "family": self.family.to_dict(),
            "margin": self.margin,
            "means": [
                {
                    "measure": matrix.measure,
                    "mean": float(matrix.values[:, matrix.systems.index(self.baseline)].mean()),
                    "judged": self.baseline_judged.get(matrix.measure),
                }
                for matrix in self.matrices
            ],
            "rows": [row.to_dict() for row in self.rows],
            "notes": list(self.notes),
        }

    def sorted_rows(self) -> list[BaselineRow]:
        """Return the rows sorted by measure and, within each measure, by decreasing mean."""
        order = {measure: number for number, measure in enumerate(self.family.measures)}
        return sorted(self.rows, key=lambda row: (order[row.measure], -row.mean))

    def _table_of_means(self, digits: int) -> Grid:
        marks = {(row.run, row.measure): row.mark for row in self.rows}
        rows = cells_of_means(self.matrices, marks, digits)
        named: list[list[str | Cell]] = [
            [f"{name} (baseline)" if name == self.baseline else name, *cells] for name, cells in rows
        ]
        return Grid(["run", *(m.measure for m in self.matrices)], named)

    def _table_of_comparisons(self, digits: int) -> Grid:
        level = f"{100 * (1 - self.family.alpha):g}%"
        heads = ["run", "measure", "difference", f"{level} interval", f"simultaneous {level}", "p", "adjusted p"]
        heads += ["detectable", "judged", *(["equivalent", "not inferior"] if self.margin is not None else [])]
        rows: list[list[str | Cell]] = [
            [
                row.run,
                row.measure,
                Cell(f"{row.difference:+.{digits}f}", row.mark),
                format_confidence_interval(*row.interval, digits),
                format_confidence_interval(*row.simultaneous_interval, digits),
                format_p_value(row.p),
                format_p_value(row.adjusted_p),
                format_measure_score(row.detectable, digits),
                format_share(row.judged),
                *(format_p_value(p) for p in row.claims.values()),
            ]
            for row in self.sorted_rows()
        ]
        minor = (f"simultaneous {level}", "p", "detectable", "judged")
        return Grid(heads, rows, left=2, minor=[heads.index(name) for name in minor])

    def _legend(self) -> list[str]:
        margin = "" if self.margin is None else f" Equivalence and non-inferiority: t, margin {self.margin:g}."
        return [
            f"{ABOVE} significantly above the baseline {self.baseline}, {BELOW} below: {self.family.describe_p()}",
            "Difference: run minus baseline. Detectable: smallest true difference found with power 0.8 at the "
            f"corrected level. Judged: fraction of judged documents at the measure's cutoff, or 10.{margin}",
            self.family.describe_data(),
        ]
