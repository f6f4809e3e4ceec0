"""Reduction of the number of queries: find how many random queries lead to the same conclusions as all queries."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from rerank.downsampling.goal_metrics import (
    Goal,
    SignificanceCriterion,
    benchmark_pairs_by_outcome,
    benchmark_verdicts,
    compare_benchmarks,
    count_benchmark_pairs,
)
from rerank.downsampling.reduced_benchmark import ReducedBenchmark, ReductionStep, find_smallest_benchmark
from rerank.errors import UsageError
from rerank.evaluation import ScoreMatrix
from rerank.evaluation.pairwise_decisions import list_caveats_of_test

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
        matrix: (queries, systems) scores.
        goal: The goal.
        criterion: The significance test; by default paired t-tests with Benjamini-Hochberg correction.
        sizes: Numbers of queries to try; by default twelve numbers from two to all queries.
        seeds: Number of draws.
        seed: The seed of the first draw; other draws use consecutive seeds.

    Raises:
        UsageError: A size is out of range, or there are no draws.
    """
    total = len(matrix.topics)
    tried_sizes = _checked_query_sample_sizes(sizes, total, seeds)
    significance = criterion or SignificanceCriterion()
    gold = benchmark_verdicts(matrix.values, matrix.systems, significance)
    # samples are nested: every size takes the first queries of the same random orders
    orders = [np.random.default_rng(seed + index).permutation(total) for index in range(seeds)]
    steps, first_success = [], {}
    for size in tried_sizes:
        samples = [benchmark_verdicts(matrix.values[order[:size]], matrix.systems, significance) for order in orders]
        draws = [compare_benchmarks(gold, sample) for sample in samples]
        met_by_draw = [goal.is_met(figures) for figures in draws]
        first_success[size] = next((order[:size] for order, met in zip(orders, met_by_draw, strict=True) if met), None)
        steps.append(_query_reduction_step(size, draws, sum(met_by_draw) / seeds))
    chosen = find_smallest_benchmark(tuple(steps))
    selected = first_success[chosen.size] if chosen else None
    indices = [] if selected is None else sorted(selected.tolist())
    verdicts = benchmark_verdicts(matrix.values[indices], matrix.systems, significance) if indices else gold
    return ReducedBenchmark(
        kind="queries",
        whole=count_benchmark_pairs(gold),
        steps=tuple(steps),
        chosen=chosen,
        kept=tuple(matrix.topics[index] for index in indices),
        pairs=benchmark_pairs_by_outcome(gold, verdicts),
        notes=tuple(_query_reduction_notes(matrix, significance)),
    )


def _checked_query_sample_sizes(sizes: Sequence[int], total: int, seeds: int) -> list[int]:
    """Return the sizes to try, largest first."""
    checked = sorted({*(sizes or _spread_sample_sizes(total)), total}, reverse=True)
    if seeds < 1 or checked[-1] < 2 or checked[0] > total:
        raise UsageError(
            f"seeds is {seeds}, and the sizes are {checked}",
            expected=f"seeds of 1 or more, and sizes from 2 to {total}",
        )
    return checked


def _query_reduction_notes(matrix: ScoreMatrix, significance: SignificanceCriterion) -> Iterator[str]:
    procedure = significance.procedure
    yield from list_caveats_of_test(
        matrix, procedure.significance_test, procedure.correction, significance.alpha, noun="queries"
    )
    yield "The listed queries are those of the first draw that meets the goal; values are means over all draws."


def _query_reduction_step(size: int, draws: Sequence[dict[str, Any]], share: float) -> ReductionStep:
    worst = {f"worst_{name}": _worst_of_draws(draws, name) for name in ("tau", "recall")}
    more = {"draws_that_meet": share, **worst}
    return ReductionStep(size=size, label=str(size), figures=_means_over_draws(draws), met=share >= OFTEN, more=more)


def _spread_sample_sizes(many: int) -> list[int]:
    """Return the default sample sizes: a geometric series from two to all queries."""
    return [round(size) for size in np.geomspace(2, many, _SIZES).tolist()]


def _means_over_draws(draws: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the mean of every metric over the draws in which it is defined."""
    columns = {name: [draw[name] for draw in draws if draw[name] is not None] for name in draws[0]}
    return {name: sum(values) / len(values) if values else None for name, values in columns.items()}


def _worst_of_draws(draws: Sequence[dict[str, Any]], name: str) -> float | None:
    return min((draw[name] for draw in draws if draw[name] is not None), default=None)
