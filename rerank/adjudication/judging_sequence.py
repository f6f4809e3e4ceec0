"""Creation of judging orders by name, and the sequence in which an order judges a pool if all grades are known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import cast

import numpy as np

from rerank.adjudication.budgets import AdjudicationBudget
from rerank.adjudication.judging_walks import judging_rng_of_topic, open_judging_walks
from rerank.adjudication.orders.base import JudgingOrder, StaticOrder, SupportsAcross
from rerank.adjudication.pools import Bools, Ints, Pool
from rerank.errors import UsageError
from rerank.registry import Registry, plugin_name
from rerank.selector import build_from_selector
from rerank.types import Document, Query, Ranking, Run

#: Stream of random numbers for ties, which is independent of the random choices of an order.
_TIES = 1

orders = Registry("adjudication.orders", "judging order")


def open_judging_order(selector: str) -> JudgingOrder:
    """Create a judging order from its selector, such as ``"mtf"``, ``"rbp-a,p=0.9"`` or ``"llm:reranked.trec"``.

    Raises:
        UnknownNameError: The order or option does not exist.
        UsageError: The value of an option is invalid.
    """
    return cast(JudgingOrder, build_from_selector(orders, selector))


@dataclass(frozen=True, eq=False, kw_only=True)
class JudgingSequence:
    """All documents of a pool in the order in which they were judged.

    The next document depends only on earlier judgments, so the documents judged with a small budget are a prefix of
    those judged with a larger one.

    Attributes:
        pool: The pool.
        docs: For every topic, the indices of its documents in judging order.
        sequence: (documents,) index of the topic of each judgment if the order chooses among all topics; otherwise
            None.
    """

    pool: Pool
    docs: tuple[Ints, ...]
    sequence: Ints | None = None

    def sizes(self, budget: AdjudicationBudget) -> Ints:
        """Return an array of shape (topics,): how many documents of each topic are judged within the budget.

        An order that chooses among all topics may divide the total budget among the topics in any way.
        """
        sizes = budget.sizes([len(topic) for topic in self.pool.topics])
        if self.sequence is None:
            return sizes
        # count the topics of the first judgments, up to the total budget
        return np.bincount(self.sequence[: sizes.sum()], minlength=len(sizes))


def judge_pool_in_order(
    order: JudgingOrder, pool: Pool, relevant: Sequence[Bools], *, seed: int = 0, ties_by_id: bool = False
) -> JudgingSequence:
    """Return the sequence in which an order judges the whole pool, given the relevance of all documents.

    A stochastic order breaks ties between documents by the seed. If ties were broken by id, the same documents would
    have an advantage with every seed, and the result would depend on how documents are named.

    Args:
        order: The judging order.
        pool: The pool.
        relevant: For every topic, a boolean array of shape (docs,): whether each document is relevant.
        seed: Seed for stochastic orders.
        ties_by_id: Whether to break ties by document id, as a judging session does.
    """
    # (docs,) per topic: documents in random order, because orders break ties by position
    keep = ties_by_id or not order.random
    shuffled = [
        np.arange(len(topic)) if keep else judging_rng_of_topic(seed, topic, _TIES).permutation(len(topic))
        for topic in pool.topics
    ]
    walked = replace(
        pool, topics=tuple(topic.reordered(docs) for topic, docs in zip(pool.topics, shuffled, strict=True))
    )
    answers = [flags[docs].tolist() for flags, docs in zip(relevant, shuffled, strict=True)]
    docs: list[list[int]] = [[] for _ in pool.topics]
    sequence = []
    # judge the whole pool (100 %): the judgments of every smaller budget are a prefix of this sequence
    for walk in open_judging_walks(order, walked, AdjudicationBudget("share", 100), seed=seed):
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
    """Return the pool as one run. The documents of each topic are ranked by an order that needs no judgments.

    Ties are broken by document id.
    """
    if not isinstance(order, StaticOrder):
        raise UsageError(
            f"The judging order {plugin_name(type(order))!r} depends on judgments or is stochastic",
            expected="one of: " + ", ".join(static_judging_orders()),
        )
    return Run(
        (
            Ranking.from_order(
                Query(id=topic.id),
                (Document(id=topic.docs[doc]) for doc in order(topic, judging_rng_of_topic(0, topic))),
            )
            for topic in pool.topics
        ),
        name="pool",
    )


def static_judging_orders() -> list[str]:
    """Return the names of the orders that do not depend on judgments."""
    classes = ((name, orders.get(name)) for name in orders.names())
    return [
        name.replace("_", "-")
        for name, order_class in classes
        if isinstance(order_class, type) and issubclass(order_class, StaticOrder)
    ]
