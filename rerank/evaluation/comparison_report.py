"""Result classes of a comparison of runs, with methods that produce tables, plots and JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rerank.evaluation.comparison_family import ComparisonFamily
from rerank.evaluation.pairwise_decisions import PairwiseDecisions
from rerank.evaluation.significance import TITLES
from rerank.evaluation.tables import format_interval, format_p_value, format_score
from rerank.io.reports import LETTERS, Cell, Grid, Report, TableReport
from rerank.selector import Selector


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSummary:
    """Mean score of one run in a comparison, with its confidence interval."""

    run: str
    mean: float  #: Mean score over all judged queries.
    low: float  #: Lower end of the mean's 1 - alpha confidence interval (Student's t over queries).
    high: float
    missing: int  #: Number of judged queries that are missing from the run; they score 0.


@dataclass(frozen=True, slots=True, kw_only=True)
class PairComparison:
    """Comparison of two runs, a and b."""

    a: str
    b: str
    difference: float  #: Mean of a minus mean of b.
    low: float  #: Lower end of the difference's 1 - alpha confidence interval (paired t, for this pair alone).
    high: float
    #: Cohen's d_z, the mean of the differences divided by their standard deviation. It is infinite if the standard
    #: deviation is 0 and the mean is not.
    effect: float
    wins: int  #: Number of queries on which a is better.
    ties: int
    losses: int
    p: float | None  #: Two-sided p-value of the main test; None if it is the t-test and the pair is `untestable`.
    p_adjusted: float | None  #: ``p`` after the correction; None if ``p`` is None.
    p_wilcoxon: float  #: Two-sided p-value of Wilcoxon's signed-rank test, with zero differences dropped.
    #: ``p_wilcoxon`` after the same correction over all pairs, or after Holm's correction if the main test controls the
    #: family-wise error itself.
    p_wilcoxon_adjusted: float
    significant: bool  #: Whether the main test finds a difference at the comparison's significance level.

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
    """Results of comparing runs on one measure."""

    rows_key = "pairs"

    measure: str  #: Name of the measure, as ir_measures prints it.
    alpha: float
    queries: int  #: Number of judged queries, which is the sample size of every test.
    runs: tuple[RunSummary, ...]
    pairs: tuple[PairComparison, ...]  #: One entry per pair of runs; ``a`` is the run that comes first in the input.
    decisions: PairwiseDecisions = field(repr=False, compare=False)  #: The scores, the test and its results as arrays.
    missing: Mapping[str, int] = field(default_factory=dict)  #: Number of judged queries without results, if any.
    simultaneous: bool = False  #: Whether simultaneous intervals of the differences are shown.
    notes: tuple[str, ...] = ()

    @property
    def family(self) -> ComparisonFamily:
        return self.decisions.family(self.missing)

    @property
    def test(self) -> str:
        return self.decisions.test

    @property
    def correction(self) -> str:
        return self.decisions.correction

    def to_markdown(self, digits: int = 4) -> str:
        """Return the tables in Markdown. Letters next to a mean mark the runs with a significantly lower mean."""
        return self.to_table("markdown", digits)

    def to_latex(self, digits: int = 4) -> str:
        """Return the tables in LaTeX, which requires the package booktabs."""
        return self.to_table("latex", digits)

    def to_html(self, digits: int = 4) -> str:
        return self.to_table("html", digits)

    def deltas(self, a: str, b: str) -> dict[str, float]:
        """Return a mapping from each query id to the score of run ``a`` minus the score of run ``b``.

        Raises:
            UnknownNameError: A run does not exist.
        """
        matrix = self.decisions.matrix
        return dict(zip(matrix.topics, (float(d) for d in matrix.deltas(a, b)), strict=True))

    def plot(self, path: str | Path) -> None:
        """Plot per-query differences for two runs, or a heat map of the p-values for more, to a png, svg or pdf file.

        Raises:
            MissingPrerequisiteError: The extra ``plots`` is not installed.
        """
        from rerank.evaluation.plots import plot_comparison

        plot_comparison(self.decisions, path)

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON object of ``rerank compare --format json``."""
        pairs, effects = [], []
        for pair in self.pairs:
            entry = asdict(pair)
            ci = [entry.pop("low"), entry.pop("high")]
            sizes = {"d_z": entry.pop("effect"), "hedges_g": pair.hedges}
            pairs.append({**entry, "ci": ci})
            finite = {key: v if math.isfinite(v) else None for key, v in sizes.items()}
            effects.append({"a": pair.a, "b": pair.b, **finite})
        content: dict[str, Any] = {
            "measure": self.measure,
            "alpha": self.alpha,
            "queries": self.queries,
            "runs": [
                {"run": r.run, "queries": self.queries, "missing": r.missing, "mean": r.mean, "ci": [r.low, r.high]}
                for r in self.runs
            ],
            "pairs": pairs,
            "effects": effects,
            "tests": {
                "p": f"{self.decisions.title}, two-sided",
                "p_wilcoxon": "Wilcoxon signed-rank, two-sided, zeros dropped",
            },
            "test": Selector.parse(self.test).name,
            "options": self.decisions.options,
            "correction": self.correction,
            "family": self.family.to_dict(),
        }
        if self.simultaneous:
            intervals = zip(self.pairs, self._simultaneous_intervals(), strict=True)
            content["simultaneous"] = [{"a": pair.a, "b": pair.b, "ci": list(ends)} for pair, ends in intervals]
        return {**content, "notes": list(self.notes)}

    def tables(self, digits: int = 4) -> TableReport:
        """Return a table of means (best run first), a table of pairs, the legend of both tables, and the notes.

        Letters at a mean show the runs with a significantly lower mean; if there are too many runs for letters, a count
        is shown. On a narrow terminal, the table of pairs shows each run as its letter.
        """
        order = sorted(range(len(self.runs)), key=lambda index: -self.runs[index].mean)
        letters = dict(zip(order, LETTERS, strict=False)) if len(self.runs) <= len(LETTERS) else {}
        legend = [
            f"* significant: {self.family.describe_p()}",
            f"{'Letters at a mean: runs that it is significantly above. ' if letters else ''}d: mean of the "
            "differences divided by their standard deviation.",
            self.family.describe_data(),
        ]
        grids = [self._table_of_means(order, letters, digits), self._table_of_pairs(letters, digits)]
        return TableReport(grids, legend, self.notes, measure=self.measure)

    def _simultaneous_intervals(self) -> list[tuple[float, float]]:
        half_widths = self.decisions.simultaneous_half_widths().tolist()
        return [(p.difference - half, p.difference + half) for p, half in zip(self.pairs, half_widths, strict=True)]

    def _table_of_means(self, order: list[int], letters: Mapping[int, str], digits: int) -> Grid:
        beats = self.decisions.beats()
        rows: list[list[str | Cell]] = []
        for index in order:
            run = self.runs[index]
            marks = "".join(sorted(letters[other] for other in beats[index])) if letters else ""
            mean = Cell(format_score(run.mean, digits), marks, run.mean == self.runs[order[0]].mean)
            cells: list[str | Cell] = [run.run, mean, format_interval(run.low, run.high, digits)]
            rows.append([letters[index], *cells] if letters else [*cells, str(len(beats[index]))])
        heads = ["run", self.measure, f"{100 * (1 - self.alpha):g}% interval"]
        return Grid(["", *heads], rows, left=2) if letters else Grid([*heads, "beats"], rows)

    def _table_of_pairs(self, letters: Mapping[int, str], digits: int) -> Grid:
        """Return the table of pairs. Wilcoxon's test is added as a second opinion unless it is the main test."""
        level, name = f"{100 * (1 - self.alpha):g}%", Selector.parse(self.test).name
        is_corrected = self.correction != "none"
        heads = ["a", "b", "a - b", f"{level} interval", *([f"simultaneous {level}"] if self.simultaneous else [])]
        heads += ["d", "win/tie/loss", f"p ({name})", *([TITLES[self.correction]] if is_corrected else [])]
        minor = {heads.index("win/tie/loss")} if self.simultaneous else set()
        second: list[str] = []
        if name != "wilcoxon":
            correction = self.decisions.correction_of_second_test
            second = ["p (Wilcoxon)", *([TITLES[correction]] if correction != "none" else [])]
            minor |= set(range(len(heads), len(heads) + len(second)))
        short = {self.runs[index].run: letter for index, letter in letters.items()}
        simultaneous = self._simultaneous_intervals() if self.simultaneous else []
        rows: list[list[str | Cell]] = []
        for number, pair in enumerate(self.pairs):
            p_values = [pair.p, *([pair.p_adjusted] if is_corrected else [])]
            stars = [*([""] if is_corrected else []), "*" if pair.significant else ""]
            rows.append(
                [
                    *(Cell(run, short=short.get(run, "")) for run in (pair.a, pair.b)),
                    f"{pair.difference:+.{digits}f}",
                    format_interval(pair.low, pair.high, digits),
                    *(format_interval(*ends, digits) for ends in simultaneous[number : number + 1]),
                    f"{pair.effect:+.2f}",
                    f"{pair.wins}/{pair.ties}/{pair.losses}",
                    *(Cell(format_p_value(p), star) for p, star in zip(p_values, stars, strict=True)),
                    *map(format_p_value, (pair.p_wilcoxon, pair.p_wilcoxon_adjusted)[: len(second)]),
                ]
            )
        return Grid([*heads, *second], rows, left=2, minor=minor)
