"""Design of an adjudication study: methods, budgets, measures, tests, and the seeds of stochastic methods."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from rerank.adjudication.orders import open_judging_order
from rerank.adjudication.orders.base import JudgingOrder
from rerank.adjudication.pools import DEPTH
from rerank.adjudication.significance_verdicts import Procedure
from rerank.adjudication.walks import AdjudicationBudget
from rerank.errors import UsageError
from rerank.evaluation.pairwise_decisions import check_significance_level


@dataclass(frozen=True, kw_only=True)
class StudyDesign:
    """Design of an adjudication study, which compares judging orders under limited budgets.

    Attributes:
        methods: Selectors of judging orders.
        budgets: Judging budgets.
        measures: Names of measures.
        procedures: Tests with their corrections.
        relevant: Lowest grade that counts as relevant in binary measures and for judging orders.
        depth: Pool depth.
        unjudged: Whether to keep documents without a gold judgment in the pool; they count as not relevant.
        alpha: Significance level.
        seeds: Number of times that a stochastic order is repeated, each time with another seed.
        seed: The first seed; repetitions use consecutive seeds.
        resamples: Number of samples of topics and systems for intervals and for tests of methods; 0 for none.
        repeats: Pairs of the name of a system and a shell pattern. Runs whose names match are repeats of that system.
    """

    methods: tuple[str, ...]
    budgets: tuple[AdjudicationBudget, ...]
    measures: tuple[str, ...] = ("nDCG@10",)
    procedures: tuple[Procedure, ...] = (Procedure("t", "bh"),)
    relevant: int = 1
    depth: int = DEPTH
    unjudged: bool = False
    alpha: float = 0.05
    seeds: int = 10
    seed: int = 0
    resamples: int = 0
    repeats: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        """Check that no list is empty and numbers are in range, and drop duplicate list entries."""
        for name in ("methods", "budgets", "measures", "procedures"):
            values = tuple(dict.fromkeys(getattr(self, name)))
            object.__setattr__(self, name, values)
            if not values:
                raise UsageError(f"The list of {name} of the study is empty", expected="at least one entry")
        if self.seeds < 1:
            raise UsageError(f"seeds is {self.seeds}", expected="at least 1")
        if self.resamples < 0 or self.resamples == 1:
            raise UsageError(f"resamples is {self.resamples}", expected="0, or at least 2", remedy="Use 1000")
        check_significance_level(self.alpha)

    @cached_property
    def orders(self) -> dict[str, JudgingOrder]:
        """Judging order of each method, by the method's selector."""
        return {method: open_judging_order(method) for method in self.methods}

    @property
    def walks(self) -> list[tuple[str, int]]:
        """All pairs of a method and a seed. Methods that are not stochastic use only the first seed."""
        return [(method, self.seed + offset) for method in self.methods for offset in range(self.repetitions(method))]

    def repetitions(self, method: str) -> int:
        """Return how often a method is run, each time with another seed: ``seeds`` if it is stochastic, otherwise 1."""
        return self.seeds if self.orders[method].random else 1

    def samples_of_walk(self, method: str, seed: int) -> range:
        """Return which samples of topics and systems evaluate one method and seed, as indices.

        Samples are assigned to the seeds in turn, so that intervals include the variation over seeds.
        """
        return range(seed - self.seed, self.resamples, self.repetitions(method))
