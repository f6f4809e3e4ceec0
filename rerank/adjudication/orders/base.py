"""Protocol for judging orders, and their base classes.

Like a strategy, a judging order is a generator. It yields the next document to judge, and the caller sends back whether
that document is relevant. The same code therefore works in a study, where gold judgments decide this, and in a session
with an assessor. To undo the last judgment, the order is replayed without it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

import numpy as np

from rerank.adjudication.pools import Floats, PooledTopic
from rerank.errors import ensure

RandomGenerator = np.random.Generator
#: Yields the index of the next document to judge, each once, and receives whether it is relevant.
Walk = Generator[int, bool, None]
#: Yields pairs of topic index and document index, over the documents of all topics.
WalkAcross = Generator[tuple[int, int], bool, None]


class JudgingOrder(Protocol):
    """Protocol for an order in which documents are judged. Dataclass fields are its options."""

    #: Name of the order in reports.
    title: ClassVar[str]
    #: Whether it chooses, or leaves ties, at random. A study repeats stochastic orders with several seeds.
    random: ClassVar[bool]

    def __call__(self, topic: PooledTopic, rng: RandomGenerator) -> Walk:
        """Yield all documents of a topic in judging order; receive whether each is relevant."""


@runtime_checkable
class SupportsAcross(Protocol):
    """Protocol for an order that chooses among the documents of all topics at once."""

    def across(self, topics: Sequence[PooledTopic], rng: RandomGenerator) -> WalkAcross:
        """Yield all documents of all topics in judging order; receive whether each is relevant."""


class StaticOrder(ABC):
    """Base class for orders without judgments: by decreasing score; tied documents keep their order in the pool."""

    title: ClassVar[str] = ""
    random: ClassVar[bool] = True

    def __call__(self, topic: PooledTopic, rng: RandomGenerator) -> Walk:
        for doc in np.argsort(-self.scores(topic), kind="stable").tolist():  # noqa: UP028 - lists receive no judgments
            yield doc

    @abstractmethod
    def scores(self, topic: PooledTopic) -> Floats:
        """Return (docs,) scores of the documents. Documents with larger scores come first."""


class AdaptiveOrder(ABC):
    """Base class for orders that judge the document with the largest score, which each judgment updates."""

    title: ClassVar[str] = ""
    random: ClassVar[bool] = True

    def __call__(self, topic: PooledTopic, rng: RandomGenerator) -> Walk:
        state = self.begin(topic)
        judged = np.zeros(len(topic), dtype=bool)
        for _ in range(len(topic)):
            scores = state.scores()
            scores[judged] = -np.inf
            doc = int(scores.argmax())
            judged[doc] = True
            state.learn(doc, (yield doc))

    @abstractmethod
    def begin(self, topic: PooledTopic) -> AdaptiveState: ...


class AdaptiveState(Protocol):
    """Protocol for the state of an adaptive order, which is updated after every judgment."""

    def scores(self) -> Floats:
        """Return (docs,) current scores of the documents, an array that the caller may modify."""

    def learn(self, doc: int, relevant: bool) -> None: ...


@dataclass(frozen=True, kw_only=True)
class RankBiasedWeights:
    """The persistence ``p`` of rank-biased precision (RBP), between 0 and 1, and the rank weights computed from it."""

    p: float = 0.8

    def __post_init__(self) -> None:
        ensure(0 < self.p < 1, f"p is {self.p}", expected="a number between 0 and 1", remedy="Use 0.8, as in the paper")

    def weights(self, topic: PooledTopic) -> Floats:
        """Return (runs, docs) RBP weights (1 - p) p^(rank - 1); 0 for documents not in the run."""
        return np.asarray(np.where(topic.retrieved, (1 - self.p) * self.p ** (topic.ranks - 1.0), 0.0))


class RunCursor:
    """Cursor that finds the next unjudged document of each run on a topic."""

    def __init__(self, topic: PooledTopic) -> None:
        self._lists = topic.lists
        self._judged = [False] * len(topic)
        self._positions = [0] * len(topic.lists)

    def next(self, run: int) -> int | None:
        """Return the run's highest-ranked unjudged document and mark it as judged; None if there is none."""
        docs, position = self._lists[run], self._positions[run]
        while position < len(docs) and self._judged[docs[position]]:
            position += 1
        self._positions[run] = position
        if position == len(docs):
            return None
        self._judged[docs[position]] = True
        return docs[position]
