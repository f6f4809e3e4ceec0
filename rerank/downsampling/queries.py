"""Reduction of the number of queries: find how many random queries lead to the same conclusions as all queries."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rerank.downsampling.conclusions import (
    Goal,
    ReducedBenchmark,
    ReductionStep,
    SignificanceCriterion,
    compare,
    count_pairs,
    find_smallest,
    pairs_by_outcome,
    verdicts_of,
)
from rerank.errors import UsageError
from rerank.evaluation import ScoreMatrix
from rerank.evaluation.pairwise_decisions import list_caveats

#: Fraction of the random draws that must meet the goal.
OFTEN = 0.9
#: Number of sizes that are tried by default.
_SIZES = 12


def choose_fewest_queries(
    matrix: ScoreMatrix,
    goal: Goal,
    *,
    criterion: SignificanceCriterion | None = None,
    sizes: Sequence[int] = (),
    seeds: int = 20,
    seed: int = 0,
) -> ReducedBenchmark:
    """Find the smallest number of queries for which nine in ten random draws meet the goal.

    A draw is a random order of the queries. Every sample takes the first queries of a draw, so samples are nested.

    Args:
        criterion: The significance test; by default paired t-tests with Benjamini-Hochberg correction.
        sizes: Numbers of queries to try; by default twelve numbers from two to all queries, in a geometric series.
        seed: The seed of the first draw; other draws use consecutive seeds.

    Raises:
        UsageError: A size is out of range, or there are no draws.
    """
    total = len(matrix.topics)
    series = [round(size) for size in np.geomspace(2, total, _SIZES).tolist()]
    tried = sorted({*(sizes or series), total}, reverse=True)
    if seeds < 1 or tried[-1] < 2 or tried[0] > total:
        raise UsageError(
            f"seeds is {seeds}, and the sizes are {tried}", expected=f"seeds of 1 or more, and sizes from 2 to {total}"
        )
    significance = criterion or SignificanceCriterion()
    gold = verdicts_of(matrix.values, matrix.systems, significance)
    # samples are nested: every size takes the first queries of the same random orders
    orders = [np.random.default_rng(seed + index).permutation(total) for index in range(seeds)]
    steps, first_success = [], {}
    for size in tried:
        samples = [verdicts_of(matrix.values[order[:size]], matrix.systems, significance) for order in orders]
        draws = [compare(gold, sample) for sample in samples]
        met_by_draw = [goal.is_met(figures) for figures in draws]
        first_success[size] = next((order[:size] for order, met in zip(orders, met_by_draw, strict=True) if met), None)
        # Figures are means over the draws in which they are defined.
        defined = {name: [draw[name] for draw in draws if draw[name] is not None] for name in draws[0]}
        figures = {name: sum(values) / len(values) if values else None for name, values in defined.items()}
        share = sum(met_by_draw) / seeds
        worst = {f"worst_{name}": min(defined[name], default=None) for name in ("tau", "recall")}
        more = {"draws_that_meet": share, **worst}
        steps.append(ReductionStep(size=size, label=str(size), figures=figures, met=share >= OFTEN, more=more))
    chosen = find_smallest(tuple(steps))
    selected = first_success[chosen.size] if chosen else None
    indices = [] if selected is None else sorted(selected.tolist())
    verdicts = verdicts_of(matrix.values[indices], matrix.systems, significance) if indices else gold
    procedure = significance.procedure
    caveats = list_caveats(
        matrix, procedure.significance_test, procedure.correction, significance.alpha, noun="queries"
    )
    return ReducedBenchmark(
        kind="queries",
        whole=count_pairs(gold),
        steps=tuple(steps),
        chosen=chosen,
        kept=tuple(matrix.topics[index] for index in indices),
        pairs=pairs_by_outcome(gold, verdicts),
        notes=(
            *caveats,
            "The listed queries are those of the first draw that meets the goal; values are means over all draws.",
        ),
    )
