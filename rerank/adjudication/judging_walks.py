"""Step-by-step execution of judging orders within a budget. A walk yields a document and waits for its judgment."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from functools import partial

import numpy as np

from rerank.adjudication.budgets import AdjudicationBudget
from rerank.adjudication.orders.base import JudgingOrder, RandomGenerator, SupportsAcross, WalkAcross
from rerank.adjudication.pools import Pool, PooledTopic


class JudgingWalk:
    """Execution of a judging order, for one topic or across all, up to a limit. It starts at the first request.

    Args:
        begin: Function that starts the order and returns its generator of documents.
        limit: Largest number of documents to judge.

    Attributes:
        limit: Largest number of documents to judge.
        done: Number of documents judged so far.
    """

    def __init__(self, begin: Callable[[], WalkAcross], limit: int) -> None:
        """Create a walk that has not started yet."""
        self.limit, self.done = limit, 0
        self._begin = begin
        self._walk: WalkAcross | None = None
        self._next: tuple[int, int] | None = None

    @property
    def next(self) -> tuple[int, int] | None:
        """The next document: the index of its topic in the pool, and its index within the topic; None at the end."""
        if self.done >= self.limit:
            return None
        if self._walk is None:
            self._walk = self._begin()
            self._next = next(self._walk, None)
        return self._next

    def answer(self, relevant: bool) -> None:
        """Record whether the current document is relevant, and advance to the next one."""
        if self.next is None or self._walk is None:
            raise IndexError("the walk has ended")
        self.done += 1
        try:
            self._next = self._walk.send(relevant)
        except StopIteration:
            self._next = None


def open_judging_walks(
    order: JudgingOrder, pool: Pool, budget: AdjudicationBudget, *, seed: int = 0
) -> list[JudgingWalk]:
    """Return one walk per topic, or a single walk if the order chooses among all topics."""
    sizes = budget.sizes([len(topic) for topic in pool.topics]).tolist()
    if isinstance(order, SupportsAcross):
        return [JudgingWalk(partial(_judge_across_topics, order, pool, seed), sum(sizes))]
    return [
        JudgingWalk(partial(_judge_one_topic, order, index, topic, seed), size)
        for index, (topic, size) in enumerate(zip(pool.topics, sizes, strict=True))
    ]


def _judge_across_topics(order: SupportsAcross, pool: Pool, seed: int) -> WalkAcross:
    """Start an order that chooses among all topics, and return its generator of (topic, document) indices."""
    return order.across(pool.topics, np.random.default_rng([seed]))


def _judge_one_topic(order: JudgingOrder, index: int, topic: PooledTopic, seed: int) -> WalkAcross:
    """Start an order for one topic. Yield (topic, document) indices, and receive whether the document is relevant."""
    walk = order(topic, judging_rng_of_topic(seed, topic))
    try:
        doc = next(walk)
        while True:
            doc = walk.send((yield index, doc))
    except StopIteration:
        return


def judging_rng_of_topic(seed: int, topic: PooledTopic, *stream: int) -> RandomGenerator:
    """Return the random generator of one topic. It depends on seed, topic id and stream, but not on other topics."""
    return np.random.default_rng([seed, zlib.crc32(topic.id.encode("utf-8", "surrogatepass")), *stream])
