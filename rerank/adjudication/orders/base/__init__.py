"""Protocol of judging orders and base classes for them.

A judging order is a generator, as strategies are: it yields the document to judge next and is sent whether it is
relevant. So the same code runs in a study, where gold judgments answer, and for an assessor, who takes time; a judgment
is undone by replaying the order with one judgment fewer.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

import numpy as np

from rerank.adjudication.pools import Floats, PooledTopic

RandomGenerator = np.random.Generator
#: Yields the index of the document to judge next, each once; is sent whether it is relevant.
Walk = Generator[int, bool, None]
#: The same over all topics: yields the indices of topic and document.
WalkAcross = Generator[tuple[int, int], bool, None]


class JudgingOrder(Protocol):
    """An order in which documents are judged. Dataclass fields are its options."""

    #: Name of the order in reports.
    title: ClassVar[str]
    #: Whether the order is stochastic, so that a study repeats it with several seeds.
    random: ClassVar[bool]

    def __call__(self, topic: PooledTopic, rng: RandomGenerator) -> Walk:
        """Yield all documents of a topic in judging order."""


@runtime_checkable
class SupportsAcross(Protocol):
    """An order that can choose among the documents of all topics at once."""

    def across(self, topics: Sequence[PooledTopic], rng: RandomGenerator) -> WalkAcross:
        """Yield all documents of all topics in judging order."""


class StaticOrder(ABC):
    """Base class of orders that do not depend on judgments: by decreasing score, ties by ascending id."""

    title: ClassVar[str] = ""
    random: ClassVar[bool] = False

    def __call__(self, topic: PooledTopic, rng: RandomGenerator) -> Walk:
        """Yield the documents of a topic by decreasing score."""
        for doc in np.argsort(-self.scores(topic), kind="stable").tolist():  # noqa: UP028 - lists receive no judgments
            yield doc

    @abstractmethod
    def scores(self, topic: PooledTopic) -> Floats:
        """Return the score of each document, larger first, (docs,)."""


def sum_over_pooled_runs(values: Floats) -> Floats:
    """Sum (runs, docs) values over runs, after sorting, so that the sum is independent of the order of the runs."""
    return np.asarray(np.sort(values, axis=0).sum(axis=0))


class AdaptiveOrder(ABC):
    """Base class of orders that judge the document with the largest score and update scores after every judgment.

    Ties are broken by ascending id.
    """

    title: ClassVar[str] = ""
    random: ClassVar[bool] = False

    def __call__(self, topic: PooledTopic, rng: RandomGenerator) -> Walk:
        """Yield the document with the largest current score, until all are judged."""
        state = self.begin(topic)
        judged = np.zeros(len(topic), dtype=bool)
        for _ in range(len(topic)):
            scores = state.scores()
            scores[judged] = -np.inf
            doc = int(scores.argmax())
            judged[doc] = True
            state.learn(doc, (yield doc))

    @abstractmethod
    def begin(self, topic: PooledTopic) -> AdaptiveState:
        """Return the state before the first judgment."""


class AdaptiveState(Protocol):
    """State of an adaptive order, updated by judgments."""

    def scores(self) -> Floats:
        """Return a new array of scores, larger first, (docs,)."""

    def learn(self, doc: int, relevant: bool) -> None:
        """Update the state with a judgment."""


@dataclass(frozen=True)
class RunCursor:
    """The unjudged documents of a topic, with a position in each run."""

    topic: PooledTopic
    judged: list[bool]
    positions: list[int]

    @classmethod
    def at_top(cls, topic: PooledTopic) -> RunCursor:
        """Return a cursor at the top of all runs."""
        return cls(topic, [False] * len(topic), [0] * len(topic.lists))

    def next(self, run: int) -> int | None:
        """Return the first unjudged document of a run and mark it as judged; None if there is none."""
        docs, position = self.topic.lists[run], self.positions[run]
        while position < len(docs) and self.judged[docs[position]]:
            position += 1
        self.positions[run] = position
        if position == len(docs):
            return None
        self.judged[docs[position]] = True
        return docs[position]
