"""Which order of judging keeps the conclusions: orders x budgets x measures x tests, against the gold judgments.

Source: Otero, Parapar and Ferro, How discriminative are your qrels? How to study the statistical significance of
document adjudication methods, CIKM 2023.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from rerank.adjudication.budgets import Budget
from rerank.adjudication.measuring import Measurer
from rerank.adjudication.notes import about_budgets, about_grades, about_pool, about_tests
from rerank.adjudication.ordering import open_order, walk
from rerank.adjudication.orders.base import Order
from rerank.adjudication.pools import DEPTH, pool
from rerank.adjudication.results import Cell, Study
from rerank.adjudication.verdicts import Procedure, Verdicts
from rerank.errors import UsageError
from rerank.evaluation.pairs import check_level
from rerank.types import Qrels, Run

#: Told the method after every walk; there are `Design.walks`.
OnWalk = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Design:
    """What is studied.

    Attributes:
        methods: Selectors of orders of judging.
        budgets: How much is judged.
        measures: Names of measures.
        procedures: Tests with their corrections.
        relevant: The lowest grade that binary measures count, and that tells an order of judging "relevant".
        depth: Of the pool.
        unjudged: Whether documents without a gold judgment stay in the pool; judged, they are not relevant.
        alpha: The level of significance.
        seeds: How many times an order with chance in it is asked.
        seed: The first of them.
    """

    methods: tuple[str, ...]
    budgets: tuple[Budget, ...]
    measures: tuple[str, ...] = ("nDCG@10",)
    procedures: tuple[Procedure, ...] = (Procedure("t", "bh"),)
    relevant: int = 1
    depth: int = DEPTH
    unjudged: bool = False
    alpha: float = 0.05
    seeds: int = 10
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the options; what is given twice counts once."""
        for name in ("methods", "budgets", "measures", "procedures"):
            given = tuple(dict.fromkeys(getattr(self, name)))
            object.__setattr__(self, name, given)
            if not given:
                raise UsageError(f"A study without {name}", expected="at least one")
        if self.seeds < 1:
            raise UsageError(f"seeds={self.seeds}", expected="at least 1")
        check_level(self.alpha)

    @cached_property
    def orders(self) -> dict[str, Order]:
        """Method -> its order of judging, opened once."""
        return {method: open_order(method) for method in self.methods}

    @property
    def walks(self) -> list[tuple[str, int]]:
        """Every method with every seed it is asked with."""
        return [
            (method, self.seed + turn)
            for method, order in self.orders.items()
            for turn in range(self.seeds if order.random else 1)
        ]


def study(runs: Sequence[Run], qrels: Qrels, design: Design, *, on_walk: OnWalk | None = None) -> Study:
    """Judge the pool of the runs by every method, as far as every budget goes, and see what stays of the conclusions.

    Args:
        runs: The systems; two or more.
        qrels: Gold judgments. They answer the orders, and give the conclusions that the cheap ones are held against.
        design: What is studied.
        on_walk: Told after each walk.

    Raises:
        UnknownNameError: No such method, test, correction or measure.
        UsageError: An option that does not fit.
        DataError: Fewer than two runs or topics, or runs and judgments that share nothing.
    """
    pooled = pool(runs, depth=design.depth, qrels=qrels, unjudged=design.unjudged)
    measurer = Measurer(pooled, runs, qrels, design.measures, relevant=design.relevant)
    gold = {
        name: Verdicts.of(matrix.values, matrix.systems, design.procedures, design.alpha)
        for name, matrix in measurer.gold.items()
    }
    everything = replace(design, methods=("docid",), budgets=(Budget("share", 100),))
    whole = tuple(_walked("docid", 0, everything, measurer, gold))
    cells: list[Cell] = []
    for method, seed in design.walks:
        cells += _walked(method, seed, design, measurer, gold)
        if on_walk:
            on_walk(method)
    told = [
        *about_tests(measurer.gold.values(), design.procedures, design.alpha),
        *about_grades(qrels, measurer.names, design.relevant),
        *about_pool(pooled, qrels, whole, depth=design.depth, relevant=design.relevant),
        *about_budgets(cells, len(pooled.topics)),
    ]
    return Study(
        design=design,
        pool=pooled,
        qrels=qrels.name,
        topics=measurer.topics,
        gold=gold,
        cells=tuple(cells),
        whole=whole,
        notes=tuple(dict.fromkeys(told)),
    )


def _walked(method: str, seed: int, design: Design, measurer: Measurer, gold: dict[str, Verdicts]) -> Iterator[Cell]:
    """All cells of one walk through the pool."""
    relevant = measurer.relevant_documents(design.relevant)
    ordering = walk(design.orders[method], measurer.pool, relevant, seed=seed)
    values = measurer.measured(ordering, design.budgets)
    hits = [answers[docs].cumsum() for answers, docs in zip(relevant, ordering.docs, strict=True)]
    for at, budget in enumerate(design.budgets):
        sizes = ordering.sizes(budget)
        found = sum(int(row[size - 1]) for row, size in zip(hits, sizes, strict=True) if size)
        for measure, matrices in values.items():
            cheap = Verdicts.of(matrices[at], gold[measure].systems, design.procedures, design.alpha)
            alike = cheap.alike(gold[measure])
            for procedure, codes in zip(design.procedures, cheap.beside(gold[measure]), strict=True):
                yield Cell(
                    method=method,
                    seed=seed,
                    budget=budget,
                    measure=measure,
                    procedure=procedure,
                    judged=int(sizes.sum()),
                    topics=int((sizes > 0).sum()),
                    relevant=found,
                    codes=codes,
                    alike=alike,
                )
