"""Hedge: weights of runs decrease with their errors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from rerank.adjudication.orders.base import AdaptiveOrder
from rerank.adjudication.pools import Floats, PooledTopic
from rerank.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class Hedge(AdaptiveOrder):
    """The document with the largest weighted gain over runs; runs lose weight when their ranking was wrong.

    With N documents in the union, g(d, s) = ln(N / rank) if run s has d, else the mean of ln(N / r) over the ranks
    t + 1 .. N below its t documents. Judging d costs s 0.5 (-1)^rel g(d, s); w_s = beta^(sum of losses), normalised;
    the next document maximises the sum over s of w_s g(d, s). Weights are stored as logarithms, because beta^loss
    underflows.
    Source: Aslam, Pavlu and Savell, A unified model for metasearch, pooling, and system evaluation, CIKM 2003.

    Attributes:
        beta: Decay of the weights, between 0 and 1; smaller values decay faster.
    """

    title: ClassVar[str] = "Hedge"

    beta: float = 0.1

    def __post_init__(self) -> None:
        """Check the options."""
        if not 0 < self.beta < 1:
            raise UsageError(f"beta={self.beta}", expected="a number between 0 and 1", remedy="The paper uses 0.1")

    def begin(self, topic: PooledTopic) -> HedgeState:
        """Return the state without losses."""
        return HedgeState(hedge_gains(topic), float(np.log(self.beta)))


class HedgeState:
    """Losses of all runs."""

    def __init__(self, gain: Floats, log_beta: float) -> None:
        """Start without losses.

        Args:
            gain: (runs, docs) g(d, s).
            log_beta: ln beta.
        """
        self._gain, self._log_beta = gain, log_beta
        self._losses = np.zeros(len(gain))

    def scores(self) -> Floats:
        """Return the weighted sum of gains of each document, (docs,)."""
        logs = self._log_beta * self._losses
        weights = np.exp(logs - logs.max())  # (runs,) proportional to beta^loss; the maximum avoids underflow
        return np.asarray(weights @ self._gain)

    def learn(self, doc: int, relevant: bool) -> None:
        """Add the loss of each run on a judged document."""
        # 0.5 (-1)^rel g(d, s): a relevant document lowers the losses of the runs that rank it high
        self._losses += (-0.5 if relevant else 0.5) * self._gain[:, doc]


def hedge_gains(topic: PooledTopic) -> Floats:
    """Compute the gains g(d, s) of `Hedge`, (runs, docs)."""
    from scipy.special import gammaln

    union, lengths = float(topic.union), topic.lengths.astype(np.float64)
    rest = union - lengths
    # (runs,) sum of ln r over the ranks t + 1 .. N; tail = ln N minus its mean
    logs = gammaln(union + 1) - gammaln(lengths + 1)
    tail = np.where(rest > 0, np.log(union) - logs / np.maximum(rest, 1), 0.0)
    return np.where(topic.retrieved, np.log(union / np.maximum(topic.ranks, 1)), tail[:, None])
