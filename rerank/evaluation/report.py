"""What a comparison found: every run, every pair, and the tables and pictures that show them. Computes no test."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rerank.evaluation.pairs import Decisions
from rerank.evaluation.significance import TITLES
from rerank.selector import Selector

if TYPE_CHECKING:
    from rerank.io.table_formats import Form


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSummary:
    """One run of a comparison.

    Attributes:
        run: Its name.
        mean: The mean over all judged queries.
        low: Lower end of the mean's 95 % confidence interval (Student's t over queries).
        high: Upper end.
        missing: How many judged queries it lacks; they count as 0.
    """

    run: str
    mean: float
    low: float
    high: float
    missing: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Two runs of a comparison.

    Attributes:
        a: Name of the first run.
        b: Name of the second.
        difference: Mean of a less mean of b.
        low: Lower end of the difference's 95 % confidence interval (paired t, for this pair alone).
        high: Upper end.
        effect: Cohen's d_z, the mean of the differences over their standard deviation; infinite where that is 0 and the
            mean is not.
        wins: Queries on which a is better.
        ties: Queries on which both are equal.
        losses: Queries on which b is better.
        p: Two-sided p-value of the main test, the paired t-test unless another was asked for; the limit of t where all
            differences are equal (`untestable`).
        p_adjusted: The same after the correction over all pairs; with t, 1 where the pair is untestable.
        p_wilcoxon: Two-sided p-value of Wilcoxon's signed-rank test, zero differences dropped.
        p_wilcoxon_adjusted: The same after Holm's correction over all pairs.
        significant: Whether the main test finds a difference at the level of the comparison.
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
    p: float
    p_adjusted: float
    p_wilcoxon: float
    p_wilcoxon_adjusted: float
    significant: bool

    @property
    def untestable(self) -> bool:
        """Whether all differences are equal and not 0: their spread is unknown, so t says nothing."""
        return self.low == self.high and self.difference != 0

    @property
    def hedges(self) -> float:
        """`effect` without the bias of small samples: J(n - 1) effect, as a sample overestimates it.

        J(v) = gamma(v / 2) / (sqrt(v / 2) gamma((v - 1) / 2)). Source: Hedges, Journal of Educational Statistics 1981.
        """
        freedom = self.wins + self.ties + self.losses - 1
        if freedom < 2 or not self.effect:
            return 0.0
        logarithm = math.lgamma(freedom / 2) - math.lgamma((freedom - 1) / 2)
        return self.effect * math.exp(logarithm) / math.sqrt(freedom / 2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """All runs and all pairs, in the order given.

    Attributes:
        measure: As ir_measures prints it.
        alpha: The level of significance.
        queries: How many judged queries there are, the n of every test.
        runs: One summary a run.
        pairs: One entry for each two runs, the earlier one as ``a``.
        decisions: The scores, the test and what it found, as arrays.
        notes: What a reader must know before believing the numbers.
    """

    measure: str
    alpha: float
    queries: int
    runs: tuple[RunSummary, ...]
    pairs: tuple[Pair, ...]
    decisions: Decisions = field(repr=False, compare=False)
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Tables for people."""
        return self._as("text", 4)

    @property
    def test(self) -> str:
        """Selector of the main test."""
        return self.decisions.test

    @property
    def correction(self) -> str:
        """Name of the main test's correction."""
        return self.decisions.correction

    def to_markdown(self, digits: int = 4) -> str:
        """The tables in Markdown; letters at a mean name the runs that it is significantly above."""
        return self._as("markdown", digits)

    def to_latex(self, digits: int = 4) -> str:
        """The tables in LaTeX; they need the package booktabs."""
        return self._as("latex", digits)

    def to_html(self, digits: int = 4) -> str:
        """The tables as a piece of HTML."""
        return self._as("html", digits)

    def _as(self, form: Form, digits: int) -> str:
        from rerank.evaluation.tables import comparison_as

        return comparison_as(self, form, digits=digits)

    def deltas(self, a: str, b: str) -> dict[str, float]:
        """Query id -> score of run ``a`` less that of run ``b``.

        Raises:
            UnknownNameError: No such run.
        """
        matrix = self.decisions.matrix
        return dict(zip(matrix.topics, (float(d) for d in matrix.deltas(a, b)), strict=True))

    def plot(self, path: str | Path) -> None:
        """Draw it into a file: the differences of two runs query by query, the p-values of all pairs of more.

        Args:
            path: Ends in .png, .svg or .pdf.

        Raises:
            MissingPrerequisiteError: The extra ``plots`` is not installed.
        """
        from rerank.evaluation.plots import plot

        plot(self.decisions, path)

    def to_dict(self) -> dict[str, Any]:
        """What ``rerank compare --format json`` prints."""
        return {
            "measure": self.measure,
            "alpha": self.alpha,
            "queries": self.queries,
            "runs": [
                {"run": r.run, "queries": self.queries, "missing": r.missing, "mean": r.mean, "ci": [r.low, r.high]}
                for r in self.runs
            ],
            "pairs": [_pair_dict(pair) for pair in self.pairs],
            "effects": [_effects(pair) for pair in self.pairs],
            "tests": {
                "p": f"{self.decisions.title}, two-sided",
                "p_wilcoxon": "Wilcoxon signed-rank, two-sided, zeros dropped",
            },
            "test": Selector.parse(self.test).name,
            "options": self.decisions.options,
            "correction": TITLES[self.correction],
            "notes": list(self.notes),
        }


def _pair_dict(pair: Pair) -> dict[str, Any]:
    entry = asdict(pair)
    ci = [entry.pop("low"), entry.pop("high")]
    del entry["effect"]
    return {**entry, "ci": ci}


def _effects(pair: Pair) -> dict[str, Any]:
    """The sizes of a pair's effect, null where they are infinite."""
    sizes = {"d_z": pair.effect, "hedges_g": pair.hedges}
    return {"a": pair.a, "b": pair.b, **{key: v if math.isfinite(v) else None for key, v in sizes.items()}}
