"""Base classes for judging orders based on rank-biased precision (RBP)."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

import numpy as np

from rerank.adjudication.orders.base import AdaptiveOrder
from rerank.adjudication.pools import Floats, PooledTopic
from rerank.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class RankBiasedWeights:
    """The persistence of RBP and the rank weights computed from it.

    Attributes:
        p: Persistence, between 0 and 1.
    """

    p: float = 0.8

    def __post_init__(self) -> None:
        """Check that the persistence is between 0 and 1."""
        if not 0 < self.p < 1:
            raise UsageError(f"p is {self.p}", expected="a number between 0 and 1", remedy="Use 0.8, as in the paper")

    def weights(self, topic: PooledTopic) -> Floats:
        """Return an array of shape (runs, docs): RBP weights (1 - p) p^(rank - 1); 0 for documents not in the run."""
        return np.asarray(np.where(topic.retrieved, (1 - self.p) * self.p ** (topic.ranks - 1.0), 0.0))


@dataclass(frozen=True, kw_only=True)
class ResidualOrder(RankBiasedWeights, AdaptiveOrder):
    """Base class for orders that depend on the RBP residual of every run: the part of its RBP that is still unknown."""

    def begin(self, topic: PooledTopic) -> ResidualState:
        """Return the initial state: base 0 and residual 1 for every run."""
        return ResidualState(self, self.weights(topic))

    @abstractmethod
    def worth(self, base: Floats, residual: Floats) -> Floats:
        """Return an array of shape (runs,): the factor by which a run's RBP weights count in the scores of documents.

        Args:
            base: (runs,) sum of the RBP weights of the documents judged relevant.
            residual: (runs,) 1 minus the sum of the RBP weights of all judged documents.
        """


class ResidualState:
    """State of a `ResidualOrder`: for every run, the RBP earned by relevant documents (base) and the residual."""

    def __init__(self, order: ResidualOrder, weights: Floats) -> None:
        """Start with base 0 and residual 1; ``weights`` are the (runs, docs) RBP weights."""
        self._order = order
        self._weights = weights
        self._base = np.zeros(len(weights))
        self._residual = np.ones(len(weights))

    def scores(self) -> Floats:
        """Return an array of shape (docs,): the sum over runs of `ResidualOrder.worth` times the document's weight."""
        # (runs,) factors times (runs, docs) weights
        return np.asarray(self._order.worth(self._base, self._residual) @ self._weights)

    def learn(self, doc: int, relevant: bool) -> None:
        """Subtract the document's weights from the residuals; if it is relevant, add them to the bases."""
        self._residual -= self._weights[:, doc]
        if relevant:
            self._base += self._weights[:, doc]
