"""Judging a pool in the order of a method, within a budget: step by step, or at once if all grades are known."""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from rerank.adjudication.orders import static_judging_orders
from rerank.adjudication.orders.base import JudgingOrder, RandomGenerator, StaticOrder, SupportsAcross, WalkAcross
from rerank.adjudication.pools import Bools, Ints, Pool, PooledTopic
from rerank.errors import UsageError
from rerank.registry import plugin_name
from rerank.types import Document, Query, Ranking, Run

#: Stream of random numbers for ties, which is independent of the random choices of an order.
_TIES = 1
_FORM = re.compile(r"(?P<total>total:)?(?P<amount>\d+(?:\.\d+)?)(?P<share>%)?")
_EXPECTED = "10 (documents per topic), 10% (of each topic's pool, at most 100%) or total:5000 (over all topics)"


@dataclass(frozen=True, slots=True)
class AdjudicationBudget:
    """Limit on the number of documents to judge."""

    #: Limits documents per topic, the percentage of each topic's pool (``share``), or documents over all topics.
    kind: Literal["topic", "share", "total"]
    amount: float  # number of documents; for ``share``, a percentage

    def __post_init__(self) -> None:
        whole = self.kind == "share" or float(self.amount).is_integer()
        if not (whole and 0 < self.amount < 2**63) or (self.kind == "share" and self.amount > 100):
            raise UsageError(f"The budget {self} is invalid", expected=_EXPECTED)

    def __str__(self) -> str:
        return {"topic": "{:.15g}", "share": "{:.15g}%", "total": "total:{:.15g}"}[self.kind].format(self.amount)

    @classmethod
    def parse(cls, text: str) -> AdjudicationBudget:
        """Parse ``10`` (per topic), ``10%`` (of each pool) or ``total:5000`` (over all topics)."""
        match = _FORM.fullmatch(text.strip())
        if match is None or (match["total"] and match["share"]):
            raise UsageError(f"{text!r} is not a budget", expected=_EXPECTED)
        kind: Literal["topic", "share", "total"] = "total" if match["total"] else "share" if match["share"] else "topic"
        return cls(kind, float(match["amount"]))

    def sizes(self, pools: Sequence[int]) -> Ints:
        """Return (topics,) the number of documents to judge per topic, given the sizes of the pools.

        A share is rounded half to even, as Python's ``round`` does. A total is divided equally among topics. No topic
        gets more documents than its pool contains. The remainder is distributed in rounds of one document per topic, in
        the order of the topics (findTopicSizes of Lipani's PoolBiasEstimators).
        """
        sizes = np.asarray(pools, dtype=np.int64)
        if self.kind == "share":
            return np.array([round(size * self.amount / 100) for size in pools], dtype=np.int64)
        if self.kind == "topic":
            return np.minimum(sizes, int(self.amount))
        # equal shares first; small pools leave a remainder, which is distributed in rounds
        remaining = min(int(self.amount), int(sizes.sum()))
        allocated = np.minimum(sizes, remaining // len(sizes))
        while remaining > allocated.sum():
            allocated[np.flatnonzero(allocated < sizes)[: remaining - allocated.sum()]] += 1
        return allocated


class JudgingWalk:
    """Execution of a judging order, for one topic or across all, up to a limit. It starts at the first request."""

    def __init__(self, begin: Callable[[], WalkAcross], limit: int) -> None:
        self.limit = limit
        self.done = 0  # number of documents judged so far
        self._begin = begin
        self._walk: WalkAcross | None = None
        self._next: tuple[int, int] | None = None

    @property
    def next(self) -> tuple[int, int] | None:
        """The indices of the topic and of the next document within the topic; None at the end."""
        if self.done >= self.limit:
            return None
        if self._walk is None:
            self._walk = self._begin()
            self._next = next(self._walk, None)
        return self._next

    def answer(self, relevant: bool) -> None:
        if self.next is None or self._walk is None:
            raise IndexError("the walk has ended")
        self.done += 1
        try:
            self._next = self._walk.send(relevant)
        except StopIteration:
            self._next = None


def open_walks(order: JudgingOrder, pool: Pool, budget: AdjudicationBudget, *, seed: int = 0) -> list[JudgingWalk]:
    """Return one walk per topic, or a single walk if the order chooses among all topics."""
    sizes = budget.sizes([len(topic) for topic in pool.topics]).tolist()
    if isinstance(order, SupportsAcross):
        return [JudgingWalk(lambda: order.across(pool.topics, np.random.default_rng([seed])), sum(sizes))]

    def begin(index: int, topic: PooledTopic) -> WalkAcross:
        walk = order(topic, topic_rng(seed, topic))
        try:
            doc = next(walk)
            while True:
                doc = walk.send((yield index, doc))
        except StopIteration:
            return

    return [
        JudgingWalk(lambda index=index, topic=topic: begin(index, topic), size)  # type: ignore[misc]
        for index, (topic, size) in enumerate(zip(pool.topics, sizes, strict=True))
    ]


def topic_rng(seed: int, topic: PooledTopic, *stream: int) -> RandomGenerator:
    """Return the random generator of one topic. It depends on seed, topic id and stream, but not on other topics."""
    return np.random.default_rng([seed, zlib.crc32(topic.id.encode("utf-8", "surrogatepass")), *stream])


@dataclass(frozen=True, eq=False, kw_only=True)
class JudgingSequence:
    """All documents of a pool in the order in which they were judged.

    The next document depends only on earlier judgments, so the documents judged with a small budget are a prefix of
    those judged with a larger one.
    """

    pool: Pool
    docs: tuple[Ints, ...]  # for every topic, the indices of its documents in judging order
    #: (documents,) index of the topic of each judgment if the order chooses among all topics; otherwise None.
    sequence: Ints | None = None

    def sizes(self, budget: AdjudicationBudget) -> Ints:
        """Return (topics,) how many documents are judged within the budget, which an order may divide in any way."""
        sizes = budget.sizes([len(topic) for topic in self.pool.topics])
        if self.sequence is None:
            return sizes
        # count the topics of the first judgments, up to the total budget
        return np.bincount(self.sequence[: sizes.sum()], minlength=len(sizes))


def judge_pool_in_order(
    order: JudgingOrder, pool: Pool, relevant: Sequence[Bools], *, seed: int = 0, ties_by_id: bool = False
) -> JudgingSequence:
    """Return the sequence in which an order judges the whole pool, given for every topic whether (docs,) are relevant.

    A stochastic order breaks ties between documents by the seed. If ties were broken by id, the same documents would
    have an advantage with every seed, and the result would depend on how documents are named.
    """
    # (docs,) per topic: documents in random order, because orders break ties by position
    keep = ties_by_id or not order.random
    shuffled = [
        np.arange(len(topic)) if keep else topic_rng(seed, topic, _TIES).permutation(len(topic))
        for topic in pool.topics
    ]
    topics = tuple(topic.reordered(docs) for topic, docs in zip(pool.topics, shuffled, strict=True))
    answers = [flags[docs].tolist() for flags, docs in zip(relevant, shuffled, strict=True)]
    docs: list[list[int]] = [[] for _ in pool.topics]
    sequence = []
    # judge the whole pool (100 %): the judgments of every smaller budget are a prefix of this sequence
    for walk in open_walks(order, replace(pool, topics=topics), AdjudicationBudget("share", 100), seed=seed):
        while walk.next is not None:
            topic, doc = walk.next
            docs[topic].append(doc)
            sequence.append(topic)
            walk.answer(answers[topic][doc])
    return JudgingSequence(
        pool=pool,
        docs=tuple(original[row] for original, row in zip(shuffled, docs, strict=True)),
        sequence=np.array(sequence, dtype=np.int64) if isinstance(order, SupportsAcross) else None,
    )


def pool_as_run(pool: Pool, order: JudgingOrder) -> Run:
    """Return the pool as one run, ranked by an order that needs no judgments. Ties are broken by document id."""
    if not isinstance(order, StaticOrder):
        raise UsageError(
            f"The judging order {plugin_name(type(order))!r} depends on judgments or is stochastic",
            expected="one of: " + ", ".join(static_judging_orders()),
        )
    rankings = []
    for topic in pool.topics:
        docs = (Document(id=topic.docs[doc]) for doc in order(topic, topic_rng(0, topic)))
        rankings.append(Ranking.from_order(Query(id=topic.id), docs))
    return Run(rankings, name="pool")
