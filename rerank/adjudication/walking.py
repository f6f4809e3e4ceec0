"""Orders of judging, one document at a time, as far as a budget goes: each walk waits for its answers.

Knows orders and budgets, neither files nor who judges.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from functools import partial

import numpy as np

from rerank.adjudication.budgets import Budget
from rerank.adjudication.orders.base import Chance, Order, SupportsAcross, WalkAcross
from rerank.adjudication.pools import Pool, Topic


class Lane:
    """One walk, as far as a budget lets it go. It begins when its first document is asked for.

    Args:
        begin: Starts the walk.
        limit: How many documents it may ask for.

    Attributes:
        limit: The same.
        done: How many of them are answered.
    """

    def __init__(self, begin: Callable[[], WalkAcross], limit: int) -> None:
        """Stand before the first document."""
        self.limit, self.done = limit, 0
        self._begin = begin
        self._walk: WalkAcross | None = None
        self._next: tuple[int, int] | None = None

    @property
    def next(self) -> tuple[int, int] | None:
        """The places of the topic in the pool, and of the document in the topic; None at the end."""
        if self.done >= self.limit:
            return None
        if self._walk is None:
            self._walk = self._begin()
            self._next = next(self._walk, None)
        return self._next

    def answer(self, relevant: bool) -> None:
        """Say whether the next document is relevant, and go on."""
        if self.next is None or self._walk is None:
            raise IndexError("the walk has come to its end")
        self.done += 1
        try:
            self._next = self._walk.send(relevant)
        except StopIteration:
            self._next = None


def lanes_of(order: Order, pool: Pool, budget: Budget, *, seed: int = 0) -> list[Lane]:
    """One walk for every topic; a single one for an order that chooses among all topics."""
    sizes = budget.sizes([len(topic) for topic in pool.topics]).tolist()
    if isinstance(order, SupportsAcross):
        return [Lane(partial(_across, order, pool, seed), sum(sizes))]
    return [
        Lane(partial(_alone, order, at, topic, seed), size)
        for at, (topic, size) in enumerate(zip(pool.topics, sizes, strict=True))
    ]


def _across(order: SupportsAcross, pool: Pool, seed: int) -> WalkAcross:
    return order.across(pool.topics, np.random.default_rng([seed]))


def _alone(order: Order, at: int, topic: Topic, seed: int) -> WalkAcross:
    """A topic's walk, which says its topic each time."""
    walk = order(topic, chance_of(seed, topic))
    try:
        doc = next(walk)
        while True:
            doc = walk.send((yield at, doc))
    except StopIteration:
        return


def chance_of(seed: int, topic: Topic) -> Chance:
    """A topic's own source of chance, whatever other topics there are."""
    return np.random.default_rng([seed, zlib.crc32(topic.id.encode("utf-8", "surrogatepass"))])
