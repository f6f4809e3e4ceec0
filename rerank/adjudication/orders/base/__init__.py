"""What an order of judging is: the next document, given what was judged so far.

An order is a generator, as strategies are: it yields the document that it wants judged and is sent whether it is
relevant. So the same code runs in a study, where the gold judgments answer, and before a person who takes her time;
and to undo a judgment is to walk again with one fewer.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

import numpy as np

from rerank.adjudication.pools import Floats, Topic

Chance = np.random.Generator
#: Yields the place of the document to judge next, each once; is sent whether it is relevant.
Walk = Generator[int, bool, None]
#: The same over all topics: yields the place of the topic, then that of the document.
WalkAcross = Generator[tuple[int, int], bool, None]


class Order(Protocol):
    """An order of judging. Its fields are its options."""

    #: What it is called in reports.
    title: ClassVar[str]
    #: Whether chance has a part in it, so that a study asks it several times.
    random: ClassVar[bool]

    def __call__(self, topic: Topic, chance: Chance) -> Walk:
        """Walk through all documents of a topic."""


@runtime_checkable
class SupportsAcross(Protocol):
    """An order that chooses among the documents of all topics at once."""

    def across(self, topics: Sequence[Topic], chance: Chance) -> WalkAcross:
        """Walk through all documents of all topics."""


class ByScore(ABC):
    """An order that judgments do not change: the largest score first, equal ones by ascending id."""

    title: ClassVar[str] = ""
    random: ClassVar[bool] = False

    def __call__(self, topic: Topic, chance: Chance) -> Walk:
        """See `Order`."""
        for doc in np.argsort(-self.scores(topic), kind="stable").tolist():  # noqa: UP028 - lists take no answers
            yield doc

    @abstractmethod
    def scores(self, topic: Topic) -> Floats:
        """(docs,) larger is earlier."""


def summed(values: Floats) -> Floats:
    """(docs,) sums over (runs, docs), the same to the last bit for the same values in any order of runs."""
    return np.asarray(np.sort(values, axis=0).sum(axis=0))


class Adaptive(ABC):
    """An order that judges the document of the largest score, and scores anew after every judgment.

    Equal scores go by ascending id.
    """

    title: ClassVar[str] = ""
    random: ClassVar[bool] = False

    def __call__(self, topic: Topic, chance: Chance) -> Walk:
        """See `Order`."""
        state = self.begin(topic)
        judged = np.zeros(len(topic), dtype=bool)
        for _ in range(len(topic)):
            scores = state.scores()
            scores[judged] = -np.inf
            doc = int(scores.argmax())
            judged[doc] = True
            state.learn(doc, (yield doc))

    @abstractmethod
    def begin(self, topic: Topic) -> State:
        """What it knows before the first judgment."""


class State(Protocol):
    """What an adaptive order has learnt."""

    def scores(self) -> Floats:
        """(docs,) larger is earlier; an array of its own each time."""

    def learn(self, doc: int, relevant: bool) -> None:
        """Take one judgment in."""


@dataclass(frozen=True)
class Cursor:
    """Which documents of a topic are left, and for each run the next of its own."""

    topic: Topic
    judged: list[bool]
    at: list[int]

    @classmethod
    def of(cls, topic: Topic) -> Cursor:
        """At the top of all runs."""
        return cls(topic, [False] * len(topic), [0] * len(topic.lists))

    def next(self, run: int) -> int | None:
        """The first document of a run that is not judged yet, or None if none is left; it counts as judged then."""
        docs, at = self.topic.lists[run], self.at[run]
        while at < len(docs) and self.judged[docs[at]]:
            at += 1
        self.at[run] = at
        if at == len(docs):
            return None
        self.judged[docs[at]] = True
        return docs[at]
