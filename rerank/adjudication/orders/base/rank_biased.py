"""What the three orders by rank-biased precision share."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

import numpy as np

from rerank.adjudication.orders.base import Adaptive
from rerank.adjudication.pools import Floats, Topic
from rerank.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class _Persistent:
    """Options of all of them.

    Attributes:
        p: The persistence, between 0 and 1.
    """

    p: float = 0.8

    def __post_init__(self) -> None:
        """Check the options."""
        if not 0 < self.p < 1:
            raise UsageError(f"p={self.p}", expected="a number between 0 and 1", remedy="The paper's is 0.8")

    def weights(self, topic: Topic) -> Floats:
        """(runs, docs) the share that the document's rank has in the run's RBP, (1 - p) p^(rank - 1); 0 if absent."""
        return np.asarray(np.where(topic.retrieved, (1 - self.p) * self.p ** (topic.ranks - 1.0), 0.0))


@dataclass(frozen=True, kw_only=True)
class Residuals(_Persistent, Adaptive):
    """An order that looks at what is still unknown of every run's RBP."""

    def begin(self, topic: Topic) -> RunsState:
        """See `Adaptive`."""
        return RunsState(self, self.weights(topic))

    @abstractmethod
    def worth(self, base: Floats, residual: Floats) -> Floats:
        """(runs,) what a run's weights count for.

        Args:
            base: (runs,) RBP by what is judged.
            residual: (runs,) what is left of 1 after all that is judged.
        """


class RunsState:
    """Base and residual of every run; see `State`."""

    def __init__(self, order: Residuals, weights: Floats) -> None:
        """Nothing is judged."""
        self._order = order
        self._weights = weights
        self._base = np.zeros(len(weights))
        self._residual = np.ones(len(weights))

    def scores(self) -> Floats:
        """See `State`."""
        return np.asarray(self._order.worth(self._base, self._residual) @ self._weights)

    def learn(self, doc: int, relevant: bool) -> None:
        """See `State`."""
        self._residual -= self._weights[:, doc]
        if relevant:
            self._base += self._weights[:, doc]
