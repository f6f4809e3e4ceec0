"""Judging order Move-to-Front: follow a run as long as its documents are relevant."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from rerank.adjudication.orders.base import RandomGenerator, RunCursor, Walk, WalkAcross
from rerank.adjudication.pools import PooledTopic


@dataclass(frozen=True, kw_only=True)
class Mtf:
    """Move-to-Front: follow a run with the highest priority until one of its documents is not relevant.

    The priority of the run then decreases by one. All runs start with equal priority, and ties are broken at random.
    Documents that are already judged are skipped and do not change priorities. Source: Cormack, Palmer and Clarke,
    Efficient construction of large test collections, SIGIR 1998.
    """

    title: ClassVar[str] = "Move-to-Front"
    random: ClassVar[bool] = True

    def __call__(self, topic: PooledTopic, rng: RandomGenerator) -> Walk:
        """Yield the documents of a topic in judging order."""
        walk = move_to_front_judging_order([topic], rng)
        is_relevant = None
        while True:
            try:
                _, doc = walk.send(is_relevant)  # type: ignore[arg-type]
            except StopIteration:
                return
            is_relevant = yield doc


def move_to_front_judging_order(topics: Sequence[PooledTopic], rng: RandomGenerator) -> WalkAcross:
    """Yield the documents of all given topics in Move-to-Front order, with one priority per run and topic.

    All runs with the highest priority are followed before any run with a lower priority. One shuffle therefore orders
    the runs of a priority level. The runs that ended with a non-relevant document form the next level.
    """
    cursors = [RunCursor.at_top(topic) for topic in topics]
    # runs with the highest priority, as pairs (topic, run)
    highest = [(index, run) for index, topic in enumerate(topics) for run in range(len(topic.lists))]
    while highest:
        lower = []
        for index, run in [highest[position] for position in rng.permutation(len(highest))]:
            is_relevant = True
            while is_relevant and (doc := cursors[index].next(run)) is not None:
                is_relevant = yield index, doc
            # if a run is exhausted, is_relevant is still true and the run is dropped
            if not is_relevant:
                lower.append((index, run))
        highest = lower
