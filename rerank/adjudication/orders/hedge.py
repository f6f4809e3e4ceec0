"""Judging order by the Hedge algorithm: a run loses weight when it ranks a judged document wrongly."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from rerank.adjudication.orders.base import AdaptiveOrder
from rerank.adjudication.pools import Floats, PooledTopic
from rerank.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class Hedge(AdaptiveOrder):
    """Hedge: judge the document with the largest weighted gain over runs. Runs lose weight when they rank it wrongly.

    The next document d maximises the sum over runs s of w_s g(d, s). If run s contains d, its gain is g(d, s) =
    ln(N / rank), where N is the number of documents in the union of all runs. Otherwise, for a run of t documents,
    g(d, s) is the mean of ln(N / r) over the remaining ranks r = t + 1 .. N. After d is judged, run s has the loss
    0.5 (-1)^rel g(d, s). The weight w_s is proportional to beta^(sum of the losses of s). Weights are stored as
    logarithms, because beta^loss underflows.
    Source: Aslam, Pavlu and Savell, A unified model for metasearch, pooling, and system evaluation, CIKM 2003.

    Attributes:
        beta: Decay factor of the weights, between 0 and 1. Weights decay faster with smaller values.
    """

    title: ClassVar[str] = "Hedge"

    beta: float = 0.1

    def __post_init__(self) -> None:
        """Check that beta is between 0 and 1."""
        if not 0 < self.beta < 1:
            raise UsageError(
                f"beta is {self.beta}", expected="a number between 0 and 1", remedy="Use 0.1, as in the paper"
            )

    def begin(self, topic: PooledTopic) -> HedgeState:
        """Return the initial state, in which all runs have the same weight."""
        return HedgeState(hedge_gains(topic), float(np.log(self.beta)))


class HedgeState:
    """State of `Hedge`: the sum of the losses of each run."""

    def __init__(self, gain: Floats, log_beta: float) -> None:
        """Start with a loss of 0 for every run.

        Args:
            gain: (runs, docs) gains g(d, s).
            log_beta: Natural logarithm of beta.
        """
        self._gain, self._log_beta = gain, log_beta
        self._losses = np.zeros(len(gain))

    def scores(self) -> Floats:
        """Return an array of shape (docs,): the gains of each document, summed over runs with the runs' weights."""
        logs = self._log_beta * self._losses
        weights = np.exp(logs - logs.max())  # (runs,) proportional to beta^loss; the maximum avoids underflow
        return np.asarray(weights @ self._gain)

    def learn(self, doc: int, relevant: bool) -> None:
        """Add each run's loss on a judged document to the run's total loss."""
        # 0.5 (-1)^rel g(d, s): a relevant document lowers the losses of the runs that rank it high
        self._losses += (-0.5 if relevant else 0.5) * self._gain[:, doc]


def hedge_gains(topic: PooledTopic) -> Floats:
    """Return an array of shape (runs, docs): the gains g(d, s) of `Hedge`."""
    from scipy.special import gammaln

    union, lengths = float(topic.union), topic.lengths.astype(np.float64)
    rest = union - lengths
    # (runs,) logs: sum of ln r over the ranks t + 1 .. N; tail: ln N minus the mean of ln r
    logs = gammaln(union + 1) - gammaln(lengths + 1)
    tail = np.where(rest > 0, np.log(union) - logs / np.maximum(rest, 1), 0.0)
    return np.where(topic.retrieved, np.log(union / np.maximum(topic.ranks, 1)), tail[:, None])
