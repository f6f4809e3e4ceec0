"""Result classes of a comparison of runs, with methods that produce tables, plots and JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rerank.evaluation.comparison_family import ComparisonFamily
from rerank.evaluation.pairwise_decisions import PairwiseDecisions
from rerank.evaluation.plots import plot_comparison
from rerank.evaluation.significance import TITLES
from rerank.evaluation.tables import format_confidence_interval, format_measure_score, format_p_value
from rerank.io.reports import LETTERS, Cell, Grid, Report, TableReport
from rerank.selector import Selector


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSummary:
    """Mean score of one run in a comparison, with its confidence interval.

    Attributes:
        run: Name of the run.
        mean: Mean score over all judged queries.
        low: Lower end of the mean's 1 - alpha confidence interval (Student's t over queries).
        high: Upper end of the interval.
        missing: Number of judged queries that are missing from the run; they score 0.
    """

    run: str
    mean: float
    low: float
    high: float
    missing: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PairComparison:
    """Comparison of two runs, a and b.

    Attributes:
        a: Name of the first run.
        b: Name of the second run.
        difference: Mean of a minus mean of b.
        low: Lower end of the difference's 1 - alpha confidence interval (paired t, for this pair alone).
        high: Upper end of the interval.
        effect: Cohen's d_z, the mean of the differences divided by their standard deviation. It is infinite if the
            standard deviation is 0 and the mean is not.
        wins: Number of queries on which a is better.
        ties: Number of queries on which a and b have equal scores.
        losses: Number of queries on which b is better.
        p: Two-sided p-value of the main test; None if it is the t-test and the pair is `untestable`.
        p_adjusted: ``p`` after the correction; None if ``p`` is None.
        p_wilcoxon: Two-sided p-value of Wilcoxon's signed-rank test, with zero differences dropped.
        p_wilcoxon_adjusted: ``p_wilcoxon`` after the same correction over all pairs, or after Holm's correction if the
            main test controls the family-wise error itself.
        significant: Whether the main test finds a difference at the comparison's significance level.
    """

    a: str
    b: str
    difference: float
    low: float
    high: float
    effect: float
    wins: int
    ties: int
    losses: int
    p: float | None
    p_adjusted: float | None
    p_wilcoxon: float
    p_wilcoxon_adjusted: float
    significant: bool

    @property
    def untestable(self) -> bool:
        """True if all differences are equal and not 0: the t-test then has no estimate of their variance."""
        return self.low == self.high and self.difference != 0

    @property
    def hedges(self) -> float:
        """Hedges' g: J(n - 1) times `effect`, which corrects the bias of small samples.

        J(v) = gamma(v / 2) / (sqrt(v / 2) gamma((v - 1) / 2)). Source: Hedges, Journal of Educational Statistics 1981.
        """
        freedom = self.wins + self.ties + self.losses - 1
        if freedom < 2 or not self.effect:
            return 0.0
        # log-gamma avoids overflow with many queries
        logarithm = math.lgamma(freedom / 2) - math.lgamma((freedom - 1) / 2)
        return self.effect * math.exp(logarithm) / math.sqrt(freedom / 2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison(Report):
    """Results of comparing runs on one measure.

    Attributes:
        measure: Name of the measure, as ir_measures prints it.
        alpha: Significance level.
        queries: Number of judged queries, which is the sample size of every test.
        runs: One summary per run.
        pairs: One entry per pair of runs; ``a`` is the run that comes first in the input.
        decisions: The scores, the test and the results of the test as arrays.
        missing: Number of judged queries without results, for each run with such queries.
        simultaneous: Whether simultaneous intervals of the differences are shown.
        notes: Caveats for the reader.
    """

    measure: str
    alpha: float
    queries: int
    runs: tuple[RunSummary, ...]
    pairs: tuple[PairComparison, ...]
    decisions: PairwiseDecisions = field(repr=False, compare=False)
    missing: Mapping[str, int] = field(default_factory=dict)
    simultaneous: bool = False
    notes: tuple[str, ...] = ()

    @property
    def family(self) -> ComparisonFamily:
        """The hypotheses that were tested together, with the test and its correction."""
        return self.decisions.family(self.missing)

    @property
    def test(self) -> str:
        """Selector of the main test."""
        return self.decisions.test

    @property
    def correction(self) -> str:
        """Name of the correction for multiple comparisons."""
        return self.decisions.correction

    def to_markdown(self, digits: int = 4) -> str:
        """Return the tables in Markdown. Letters next to a mean mark the runs with a significantly lower mean."""
        return self.to_table("markdown", digits)

    def to_latex(self, digits: int = 4) -> str:
        """Return the tables in LaTeX, which requires the package booktabs."""
        return self.to_table("latex", digits)

    def to_html(self, digits: int = 4) -> str:
        """Return the tables as an HTML fragment."""
        return self.to_table("html", digits)

    def tables(self, digits: int = 4) -> TableReport:
        """Return a table of means (best run first), a table of pairs, the legend of both tables, and the notes."""
        grids = [_comparison_table_of_means(self, digits), _comparison_table_of_pairs(self, digits)]
        return TableReport(grids, _legend_of_comparison(self), self.notes, measure=self.measure)

    def deltas(self, a: str, b: str) -> dict[str, float]:
        """Return a mapping from each query id to the score of run ``a`` minus the score of run ``b``.

        Raises:
            UnknownNameError: A run does not exist.
        """
        matrix = self.decisions.matrix
        return dict(zip(matrix.topics, (float(d) for d in matrix.deltas(a, b)), strict=True))

    def plot(self, path: str | Path) -> None:
        """Plot the comparison: per-query differences for two runs, or a heat map of the p-values for more runs.

        Args:
            path: File name that ends in .png, .svg or .pdf.

        Raises:
            MissingPrerequisiteError: The extra ``plots`` is not installed.
        """
        plot_comparison(self.decisions, path)

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON object of ``rerank compare --format json``."""
        return {
            "measure": self.measure,
            "alpha": self.alpha,
            "queries": self.queries,
            "runs": [
                {"run": r.run, "queries": self.queries, "missing": r.missing, "mean": r.mean, "ci": [r.low, r.high]}
                for r in self.runs
            ],
            "pairs": [_comparison_of_pair_as_dict(pair) for pair in self.pairs],
            "effects": [_effect_sizes_as_dict(pair) for pair in self.pairs],
            "tests": {
                "p": f"{self.decisions.title}, two-sided",
                "p_wilcoxon": "Wilcoxon signed-rank, two-sided, zeros dropped",
            },
            "test": Selector.parse(self.test).name,
            "options": self.decisions.options,
            "correction": self.correction,
            "family": self.family.to_dict(),
            **({"simultaneous": _simultaneous_intervals_as_dicts(self)} if self.simultaneous else {}),
            "notes": list(self.notes),
        }


def _comparison_of_pair_as_dict(pair: PairComparison) -> dict[str, Any]:
    entry = asdict(pair)
    ci = [entry.pop("low"), entry.pop("high")]
    del entry["effect"]
    return {**entry, "ci": ci}


def _simultaneous_intervals(comparison: Comparison) -> list[tuple[float, float]]:
    half = comparison.decisions.simultaneous_half_widths()
    return [
        (pair.difference - float(h), pair.difference + float(h)) for pair, h in zip(comparison.pairs, half, strict=True)
    ]


def _simultaneous_intervals_as_dicts(comparison: Comparison) -> list[dict[str, Any]]:
    intervals = zip(comparison.pairs, _simultaneous_intervals(comparison), strict=True)
    return [{"a": pair.a, "b": pair.b, "ci": list(interval)} for pair, interval in intervals]


def _effect_sizes_as_dict(pair: PairComparison) -> dict[str, Any]:
    """Return Cohen's d_z and Hedges' g of a pair; infinite values become None."""
    sizes = {"d_z": pair.effect, "hedges_g": pair.hedges}
    return {"a": pair.a, "b": pair.b, **{key: v if math.isfinite(v) else None for key, v in sizes.items()}}


def _comparison_table_of_means(comparison: Comparison, digits: int) -> Grid:
    """Return the table of means, best run first.

    Letters show the runs with a significantly lower mean. If there are too many runs for letters, a count is shown.
    """
    beats, has_letters = comparison.decisions.beats(), len(comparison.runs) <= len(LETTERS)
    order = _order_of_means(comparison)
    letters = dict(zip(order, LETTERS, strict=False))
    rows: list[list[str | Cell]] = []
    for index in order:
        run = comparison.runs[index]
        marks = "".join(sorted(letters[other] for other in beats[index])) if has_letters else ""
        mean = Cell(format_measure_score(run.mean, digits), marks, run.mean == comparison.runs[order[0]].mean)
        cells: list[str | Cell] = [run.run, mean, format_confidence_interval(run.low, run.high, digits)]
        rows.append([letters[index], *cells] if has_letters else [*cells, str(len(beats[index]))])
    heads = ["run", comparison.measure, f"{_interval_level(comparison)} interval"]
    return Grid(["", *heads], rows, left=2) if has_letters else Grid([*heads, "beats"], rows)


def _order_of_means(comparison: Comparison) -> list[int]:
    """Return the indices of the runs, best mean first."""
    return sorted(range(len(comparison.runs)), key=lambda index: -comparison.runs[index].mean)


def _interval_level(comparison: Comparison) -> str:
    return f"{100 * (1 - comparison.alpha):g}%"


def _comparison_table_of_pairs(comparison: Comparison, digits: int) -> Grid:
    """Return the table of pairs. Wilcoxon's test is added as a second opinion unless it is the main test.

    On a narrow terminal, each run is shown as its letter from the table of means.
    """
    level = _interval_level(comparison)
    heads = ["a", "b", "a - b", f"{level} interval", *([f"simultaneous {level}"] if comparison.simultaneous else [])]
    heads += ["d", "win/tie/loss", f"p ({Selector.parse(comparison.test).name})"]
    second = comparison.decisions.correction_of_second_test
    if comparison.correction != "none":
        heads.append(TITLES[comparison.correction])
    minor = {heads.index("win/tie/loss")} if comparison.simultaneous else set()
    if not _is_wilcoxon_main_test(comparison):
        second_heads = ["p (Wilcoxon)", *([TITLES[second]] if second != "none" else [])]
        minor |= set(range(len(heads), len(heads) + len(second_heads)))
        heads += second_heads
    rows = [_comparison_row_of_pair(comparison, pair, digits) for pair in comparison.pairs]
    if len(comparison.runs) <= len(LETTERS):
        letters = {comparison.runs[i].run: LETTERS[n] for n, i in enumerate(_order_of_means(comparison))}
        for row, pair in zip(rows, comparison.pairs, strict=True):
            row[:2] = [Cell(run, short=letters[run]) for run in (pair.a, pair.b)]
    if comparison.simultaneous:
        for row, interval in zip(rows, _simultaneous_intervals(comparison), strict=True):
            row.insert(4, format_confidence_interval(*interval, digits))
    return Grid(heads, rows, left=2, minor=minor)


def _comparison_row_of_pair(comparison: Comparison, pair: PairComparison, digits: int) -> list[str | Cell]:
    star = "*" if pair.significant else ""
    p_values: list[str | Cell] = [Cell(format_p_value(pair.p), star if comparison.correction == "none" else "")]
    if comparison.correction != "none":
        p_values.append(Cell(format_p_value(pair.p_adjusted), star))
    if not _is_wilcoxon_main_test(comparison):
        p_values.append(format_p_value(pair.p_wilcoxon))
        if comparison.decisions.correction_of_second_test != "none":
            p_values.append(format_p_value(pair.p_wilcoxon_adjusted))
    return [
        pair.a,
        pair.b,
        f"{pair.difference:+.{digits}f}",
        format_confidence_interval(pair.low, pair.high, digits),
        f"{pair.effect:+.2f}",
        f"{pair.wins}/{pair.ties}/{pair.losses}",
        *p_values,
    ]


def _is_wilcoxon_main_test(comparison: Comparison) -> bool:
    """Return whether Wilcoxon's test is the main test."""
    return Selector.parse(comparison.test).name == "wilcoxon"


def _legend_of_comparison(comparison: Comparison) -> list[str]:
    """Return the lines below the tables, which explain stars, letters and ``d``, and describe the data."""
    letters = "Letters at a mean: runs that it is significantly above. " if len(comparison.runs) <= len(LETTERS) else ""
    family = comparison.family
    return [
        f"* significant: {family.describe_p()}",
        f"{letters}d: mean of the differences divided by their standard deviation.",
        family.describe_data(),
    ]
