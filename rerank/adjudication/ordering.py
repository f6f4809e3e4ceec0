"""An order of judging walked through with an oracle: all documents of a pool in the order they were asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np

from rerank.adjudication.budgets import Budget
from rerank.adjudication.orders.base import ByScore, Order, SupportsAcross
from rerank.adjudication.pools import Bools, Ints, Pool
from rerank.adjudication.walking import chance_of, lanes_of
from rerank.errors import UsageError
from rerank.registry import Registry
from rerank.selector import build
from rerank.types import Document, Query, Ranking, Run

orders = Registry("adjudication.orders", "order of judging")


def open_order(selector: str) -> Order:
    """Make an order of judging from its selector, e.g. ``"mtf"``, ``"rbp-a,p=0.9"`` or ``"llm:reranked.trec"``.

    Raises:
        UnknownNameError: No such order or option.
        UsageError: A value that does not fit.
    """
    return cast(Order, build(orders, selector))


@dataclass(frozen=True, eq=False, kw_only=True)
class Ordering:
    """All documents of a pool in the order in which they were judged.

    Because what comes next rests on what was judged before, a smaller budget is the head of a larger one.

    Attributes:
        pool: The pool.
        docs: For every topic, the places of its documents, first judged first.
        sequence: (documents,) the topic of each, where the order went over all topics at once; else None.
    """

    pool: Pool
    docs: tuple[Ints, ...]
    sequence: Ints | None = None

    def sizes(self, budget: Budget) -> Ints:
        """(topics,) how many of each topic's first documents a budget pays for.

        An order over all topics gets the budget's sum and spends it as it likes.
        """
        sizes = budget.sizes([len(topic) for topic in self.pool.topics])
        if self.sequence is None:
            return sizes
        return np.bincount(self.sequence[: sizes.sum()], minlength=len(sizes))


def walk(order: Order, pool: Pool, relevant: Sequence[Bools], *, seed: int = 0) -> Ordering:
    """Let an oracle answer until everything is judged.

    Args:
        order: The order.
        pool: What is judged.
        relevant: For every topic (docs,) what the oracle says.
        seed: Of the chance in it.
    """
    answers = [row.tolist() for row in relevant]
    docs: list[list[int]] = [[] for _ in pool.topics]
    sequence = []
    for lane in lanes_of(order, pool, Budget("share", 100), seed=seed):
        while lane.next is not None:
            topic, doc = lane.next
            docs[topic].append(doc)
            sequence.append(topic)
            lane.answer(answers[topic][doc])
    return Ordering(
        pool=pool,
        docs=tuple(np.array(row, dtype=np.int64) for row in docs),
        sequence=np.array(sequence, dtype=np.int64) if isinstance(order, SupportsAcross) else None,
    )


def as_run(pool: Pool, order: Order) -> Run:
    """The pool as one run, each topic in an order that judgments do not change.

    Raises:
        UsageError: The order learns from judgments, or has chance in it.
    """
    if not isinstance(order, ByScore):
        raise UsageError(
            f"The order of judging {type(order).__name__.lower()!r} rests on judgments or chance",
            expected="one that does not: " + ", ".join(static()),
        )
    return Run(
        (
            Ranking.from_order(
                Query(id=topic.id), (Document(id=topic.docs[doc]) for doc in order(topic, chance_of(0, topic)))
            )
            for topic in pool.topics
        ),
        name="pool",
    )


def static() -> list[str]:
    """Names of the orders that judgments do not change."""
    made = ((name, orders.get(name)) for name in orders.names())
    return [name.replace("_", "-") for name, order in made if isinstance(order, type) and issubclass(order, ByScore)]
