"""Hedge: runs that were wrong lose weight."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from rerank.adjudication.orders.base import Adaptive
from rerank.adjudication.pools import Floats, Topic
from rerank.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class Hedge(Adaptive):
    """The document that the runs, each by its weight, would gain most by; judged runs are weighted by their losses.

    With N documents in the union, g(d, s) = ln(N / rank) if run s has d, else the mean of ln(N / r) over the ranks
    t + 1 .. N below its t documents. Judging d costs s 0.5 (-1)^rel g(d, s); w_s = beta^(sum of losses), normalised;
    next is the largest sum over s of w_s g(d, s). Weights are kept as logarithms, for beta^loss underflows. Source:
    Aslam, Pavlu and Savell, A unified model for metasearch, pooling, and system evaluation, CIKM 2003.

    Attributes:
        beta: The smaller, the faster a run loses its weight; between 0 and 1.
    """

    title: ClassVar[str] = "Hedge"

    beta: float = 0.1

    def __post_init__(self) -> None:
        """Check the options."""
        if not 0 < self.beta < 1:
            raise UsageError(f"beta={self.beta}", expected="a number between 0 and 1", remedy="The paper's is 0.1")

    def begin(self, topic: Topic) -> Weights:
        """See `Adaptive`."""
        return Weights(gains(topic), float(np.log(self.beta)))


class Weights:
    """The losses of all runs; see `State`."""

    def __init__(self, gain: Floats, log_beta: float) -> None:
        """No losses."""
        self._gain, self._log_beta = gain, log_beta
        self._losses = np.zeros(len(gain))

    def scores(self) -> Floats:
        """See `State`."""
        logs = self._log_beta * self._losses
        weights = np.exp(logs - logs.max())
        return np.asarray(weights @ self._gain)

    def learn(self, doc: int, relevant: bool) -> None:
        """See `State`."""
        self._losses += (-0.5 if relevant else 0.5) * self._gain[:, doc]


def gains(topic: Topic) -> Floats:
    """(runs, docs) g(d, s); see `Hedge`."""
    from scipy.special import gammaln

    union, lengths = float(topic.union), topic.lengths.astype(np.float64)
    rest = union - lengths
    logs = gammaln(union + 1) - gammaln(lengths + 1)  # the sum of ln r over the ranks below the run
    tail = np.where(rest > 0, np.log(union) - logs / np.maximum(rest, 1), 0.0)
    return np.where(topic.retrieved, np.log(union / np.maximum(topic.ranks, 1)), tail[:, None])
