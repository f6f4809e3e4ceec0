"""Fewer queries: how many, drawn by chance, still say what all of them say."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from rerank.downsampling.goals import Goal, Paired, compared, counted, judged, pairs_by_fate
from rerank.downsampling.results import Choice, Step, smallest
from rerank.errors import UsageError
from rerank.evaluation import Matrix
from rerank.evaluation.pairs import reservations

#: Share of the draws that must meet the goal.
OFTEN = 0.9
#: How many sizes are tried if none are named.
_SIZES = 12


def choose_queries(
    matrix: Matrix,
    goal: Goal,
    *,
    paired: Paired | None = None,
    sizes: Sequence[int] = (),
    seeds: int = 20,
    seed: int = 0,
) -> Choice:
    """Find the least number of queries of which nine in ten draws meet the goal.

    A draw is a random order of the queries, and each size takes its first ones, so that larger sets hold the smaller.

    Args:
        matrix: Scores, (queries, systems).
        goal: What must be kept.
        paired: How differences are tested; by paired t tests, corrected after Benjamini and Hochberg, if left out.
        sizes: Numbers of queries to try; by default a dozen, from two to all.
        seeds: How many draws.
        seed: The first seed.

    Raises:
        UsageError: A size out of range, or no draws.
    """
    many = len(matrix.topics)
    wanted = sorted({*(sizes or _spread(many)), many}, reverse=True)
    if seeds < 1 or wanted[-1] < 2 or wanted[0] > many:
        raise UsageError(f"seeds={seeds}, sizes {wanted}", expected=f"seeds from 1, sizes from 2 to {many}")
    tested = paired or Paired()
    gold = judged(matrix.values, matrix.systems, tested)
    orders = [np.random.default_rng(seed + at).permutation(many) for at in range(seeds)]
    steps, lucky = [], {}
    for size in wanted:
        draws = [compared(gold, judged(matrix.values[o[:size]], matrix.systems, tested)) for o in orders]
        reached = [goal.met(figures) for figures in draws]
        lucky[size] = next((order[:size] for order, met in zip(orders, reached, strict=True) if met), None)
        steps.append(_step(size, draws, sum(reached) / seeds))
    chosen = smallest(tuple(steps))
    first = lucky[chosen.size] if chosen else None
    places = [] if first is None else sorted(first.tolist())
    kept = judged(matrix.values[places], matrix.systems, tested) if places else gold
    return Choice(
        kind="queries",
        whole=counted(gold),
        steps=tuple(steps),
        chosen=chosen,
        kept=tuple(matrix.topics[at] for at in places),
        pairs=pairs_by_fate(gold, kept),
        notes=tuple(_notes(matrix, tested)),
    )


def _notes(matrix: Matrix, tested: Paired) -> Iterator[str]:
    procedure = tested.procedure
    yield from reservations(matrix, procedure.opened, procedure.correction, tested.alpha, noun="queries")
    yield "The queries named are the first draw's that meets the goal; figures are means over all draws."


def _step(size: int, draws: Sequence[dict[str, Any]], share: float) -> Step:
    worst = {f"worst_{name}": _worst(draws, name) for name in ("tau", "recall")}
    more = {"draws_that_meet": share, **worst}
    return Step(size=size, label=str(size), figures=_means(draws), met=share >= OFTEN, more=more)


def _spread(many: int) -> list[int]:
    """Sizes from two to all, in equal ratios."""
    return [round(size) for size in np.geomspace(2, many, _SIZES).tolist()]


def _means(draws: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The mean of every figure over the draws that have it."""
    columns = {name: [draw[name] for draw in draws if draw[name] is not None] for name in draws[0]}
    return {name: sum(found) / len(found) if found else None for name, found in columns.items()}


def _worst(draws: Sequence[dict[str, Any]], name: str) -> float | None:
    return min((draw[name] for draw in draws if draw[name] is not None), default=None)
