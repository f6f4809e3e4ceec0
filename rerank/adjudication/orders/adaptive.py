"""Judging orders that depend on the judgments so far: Move-to-Front, bandits, Hedge and residuals of RBP."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from rerank.adjudication.orders.base import (
    AdaptiveOrder,
    RandomGenerator,
    RankBiasedWeights,
    RunCursor,
    Walk,
    WalkAcross,
)
from rerank.adjudication.pools import Floats, PooledTopic
from rerank.errors import ensure


@dataclass(frozen=True, kw_only=True)
class Mtf:
    """Move-to-Front: follow a run with the highest priority until one of its documents is not relevant.

    The priority of the run then decreases by one. All runs start with equal priority, and ties are broken at random.
    Documents that are already judged are skipped and do not change priorities. Source: Cormack, Palmer and Clarke,
    Efficient construction of large test collections, SIGIR 1998.
    """

    title: ClassVar[str] = "Move-to-Front"
    random: ClassVar[bool] = True

    def __call__(self, topic: PooledTopic, rng: RandomGenerator) -> Walk:
        walk = _move_to_front([topic], rng)
        is_relevant = None
        while True:
            try:
                _, doc = walk.send(is_relevant)  # type: ignore[arg-type]
            except StopIteration:
                return
            is_relevant = yield doc


@dataclass(frozen=True, kw_only=True)
class MtfGlobal(Mtf):
    """Move-to-Front (`mtf`) with one budget for all topics and a separate priority for each run of each topic.

    Topics with many relevant documents receive more of the budget. Source: Cormack, Palmer and Clarke, SIGIR 1998.
    """

    title: ClassVar[str] = "Move-to-Front over all topics"

    def across(self, topics: Sequence[PooledTopic], rng: RandomGenerator) -> WalkAcross:
        return _move_to_front(topics, rng)


def _move_to_front(topics: Sequence[PooledTopic], rng: RandomGenerator) -> WalkAcross:
    """Yield the documents of all given topics in Move-to-Front order, with one priority per run and topic.

    All runs with the highest priority are followed before any run with a lower priority. One shuffle therefore orders
    the runs of a priority level. The runs that ended with a non-relevant document form the next level.
    """
    cursors = [RunCursor(topic) for topic in topics]
    # runs with the highest priority, as pairs (topic, run)
    highest = [(index, run) for index, topic in enumerate(topics) for run in range(len(topic.lists))]
    while highest:
        lower = []
        for index, run in [highest[position] for position in rng.permutation(len(highest))]:
            is_relevant = True
            while is_relevant and (doc := cursors[index].next(run)) is not None:
                is_relevant = yield index, doc
            # if a run is exhausted, is_relevant is still true and the run is dropped
            if not is_relevant:
                lower.append((index, run))
        highest = lower


@dataclass
class _Arms:
    """How many documents of each run (an arm of the bandit) were judged relevant and not relevant so far."""

    hits: Floats  # (runs,) number of relevant judged documents. Forgetting bandits discount older documents.
    misses: Floats  # (runs,) number of judged documents that are not relevant, discounted in the same way
    plays: int = 0  # total number of judged documents

    @property
    def means(self) -> Floats:
        """(runs,) estimated probability that the next document is relevant: the mean of Beta(1 + hits, 1 + misses)."""
        return (1 + self.hits) / (2 + self.hits + self.misses)


@dataclass(frozen=True, kw_only=True)
class _Bandit(ABC):
    """Base class for orders that judge the next document of the run with the largest value. Ties are random.

    Runs are the arms of a multi-armed bandit. Playing an arm means judging the next document of the run. The outcome
    updates every run that contains the document. Source: Losada, Parapar and Barreiro, Multi-armed bandits for
    adjudicating documents in pooling-based evaluation of information retrieval systems, IP&M 2017.
    """

    title: ClassVar[str] = ""
    random: ClassVar[bool] = True

    def __call__(self, topic: PooledTopic, rng: RandomGenerator) -> Walk:
        cursor, arms = RunCursor(topic), _Arms(np.zeros(len(topic.ranks)), np.zeros(len(topic.ranks)))
        # (runs,) whether an arm can still be played
        has_unjudged = np.array(topic.retrieved.any(axis=1))
        for _ in range(len(topic)):
            while True:
                values = np.where(has_unjudged, self.values(arms, rng), -np.inf)
                best = np.flatnonzero(values == values.max())
                run = int(best[rng.integers(len(best))])
                doc = cursor.next(run)
                if doc is not None:
                    break
                has_unjudged[run] = False
            relevant = yield doc
            self.learn(arms, topic.finders[doc], relevant)

    @abstractmethod
    def values(self, arms: _Arms, rng: RandomGenerator) -> Floats:
        """Return (runs,) values; the run with the largest one provides the next document."""

    def learn(self, arms: _Arms, runs: list[int], relevant: bool) -> None:
        arms.plays += 1
        (arms.hits if relevant else arms.misses)[runs] += 1


@dataclass(frozen=True, kw_only=True)
class _ForgettingBandit(_Bandit):
    """Base class for bandits that can give less weight to older outcomes."""

    #: Fraction by which the earlier outcomes of a run are discounted whenever one of its documents is judged. With 0,
    #: nothing is forgotten (a stationary bandit); with 1, only the latest outcome is remembered.
    rate: float = 0.0

    def __post_init__(self) -> None:
        ensure(0 <= self.rate <= 1, f"rate is {self.rate}", expected="a number from 0 to 1")

    def learn(self, arms: _Arms, runs: list[int], relevant: bool) -> None:
        # only the runs that contain the document forget; the outcomes of all others stay
        if self.rate:
            arms.hits[runs] *= 1 - self.rate
            arms.misses[runs] *= 1 - self.rate
        super().learn(arms, runs, relevant)


@dataclass(frozen=True, kw_only=True)
class Mm(_ForgettingBandit):
    """MaxMean: judge the next document of the run with the largest (1 + relevant) / (2 + judged documents).

    Source: Losada et al., IP&M 2017.
    """

    title: ClassVar[str] = "MaxMean"

    def values(self, arms: _Arms, rng: RandomGenerator) -> Floats:
        return arms.means


@dataclass(frozen=True, kw_only=True)
class MmNs(Mm):
    """MaxMean that forgets older judgments of a run; with rate 1, only its latest counts. Losada et al. 2017."""

    title: ClassVar[str] = "MaxMean, non-stationary"

    rate: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Ts(_ForgettingBandit):
    """Thompson sampling: before each judgment, draw the value of each run from Beta(1 + relevant, 1 + not relevant).

    The next document of the run with the largest value is judged. Source: Losada et al., IP&M 2017.
    """

    title: ClassVar[str] = "Thompson sampling"

    def values(self, arms: _Arms, rng: RandomGenerator) -> Floats:
        # (runs,) samples from the posterior of the rate of relevant documents, given a uniform prior
        return rng.beta(1 + arms.hits, 1 + arms.misses)


@dataclass(frozen=True, kw_only=True)
class EpsNGreedy(_Bandit):
    """Epsilon-greedy bandit: judge the next document of the best run so far (as in `mm`) or of a random run.

    With K runs, judgment t explores a random run with probability min(1, c K / (d^2 t)). Source: Auer, Cesa-Bianchi and
    Fischer 2002, figure 3; for pools Losada et al., IP&M 2017.
    """

    title: ClassVar[str] = "epsilon-n-greedy"

    c: float = 0.01  # exploration factor; larger values explore longer
    d: float = 0.1  # exploration scale, above 0 and at most 1; smaller values explore longer

    def __post_init__(self) -> None:
        ensure(
            self.c >= 0 and 0 < self.d <= 1,
            f"c is {self.c} and d is {self.d}",
            expected="c of 0 or more, d above 0 and at most 1",
        )

    def values(self, arms: _Arms, rng: RandomGenerator) -> Floats:
        count = len(arms.hits)
        explores = rng.random() < self.c * count / (self.d**2 * (arms.plays + 1))
        # equal values make the base class choose at random
        return np.zeros(count) if explores else arms.means


@dataclass(frozen=True, kw_only=True)
class Ucb1Tuned(_Bandit):
    """UCB1-tuned: value(s) = m + sqrt((ln t / n) min(1/4, m - m^2 + sqrt(2 ln t / n))).

    n is the number of judged documents in run s, m is the fraction of them that is relevant, and t is the number of all
    judged documents. A run without judged documents is played first. Source: Auer, Cesa-Bianchi and Fischer,
    Finite-time analysis of the multiarmed bandit problem, 2002; for pools Losada et al., IP&M 2017.
    """

    title: ClassVar[str] = "UCB1-tuned"

    def values(self, arms: _Arms, rng: RandomGenerator) -> Floats:
        judged = arms.hits + arms.misses
        n, log_plays = np.maximum(judged, 1), np.log(max(arms.plays, 1))
        mean = arms.hits / n
        # for binary outcomes the sample variance is m - m^2; 1/4 is its upper bound
        variance = mean - mean**2 + np.sqrt(2 * log_plays / n)
        return np.where(judged > 0, mean + np.sqrt(log_plays / n * np.minimum(0.25, variance)), np.inf)


@dataclass(frozen=True, kw_only=True)
class Hedge(AdaptiveOrder):
    """Hedge: judge the document with the largest weighted gain over runs. Runs lose weight when they rank it wrongly.

    The next document d maximises the sum over runs s of w_s g(d, s). If run s contains d, its gain is g(d, s) =
    ln(N / rank), where N is the number of documents in the union of all runs. Otherwise, for a run of t documents,
    g(d, s) is the mean of ln(N / r) over the remaining ranks r = t + 1 .. N. After d is judged, run s has the loss
    0.5 (-1)^rel g(d, s). The weight w_s is proportional to beta^(sum of the losses of s). Weights are stored as
    logarithms, because beta^loss underflows.
    Source: Aslam, Pavlu and Savell, A unified model for metasearch, pooling, and system evaluation, CIKM 2003.
    """

    title: ClassVar[str] = "Hedge"

    #: Decay factor of the weights, between 0 and 1. Weights decay faster with smaller values.
    beta: float = 0.1

    def __post_init__(self) -> None:
        remedy = "Use 0.1, as in the paper"
        ensure(0 < self.beta < 1, f"beta is {self.beta}", expected="a number between 0 and 1", remedy=remedy)

    def begin(self, topic: PooledTopic) -> _HedgeState:
        return _HedgeState(hedge_gains(topic), float(np.log(self.beta)))


class _HedgeState:
    """State of `Hedge`: the sum of the losses of each run, from the (runs, docs) gains and the logarithm of beta."""

    def __init__(self, gain: Floats, log_beta: float) -> None:
        self._gain, self._log_beta = gain, log_beta
        self._losses = np.zeros(len(gain))

    def scores(self) -> Floats:
        logs = self._log_beta * self._losses
        weights = np.exp(logs - logs.max())  # (runs,) proportional to beta^loss; the maximum avoids underflow
        return np.asarray(weights @ self._gain)

    def learn(self, doc: int, relevant: bool) -> None:
        # 0.5 (-1)^rel g(d, s): a relevant document lowers the losses of the runs that rank it high
        self._losses += (-0.5 if relevant else 0.5) * self._gain[:, doc]


def hedge_gains(topic: PooledTopic) -> Floats:
    """Return (runs, docs) the gains g(d, s) of `Hedge`."""
    from scipy.special import gammaln

    union, lengths = float(topic.union), topic.lengths.astype(np.float64)
    rest = union - lengths
    # (runs,) logs: sum of ln r over the ranks t + 1 .. N; tail: ln N minus the mean of ln r
    logs = gammaln(union + 1) - gammaln(lengths + 1)
    tail = np.where(rest > 0, np.log(union) - logs / np.maximum(rest, 1), 0.0)
    return np.where(topic.retrieved, np.log(union / np.maximum(topic.ranks, 1)), tail[:, None])


@dataclass(frozen=True, kw_only=True)
class _ResidualOrder(RankBiasedWeights, AdaptiveOrder):
    """Base class for orders that depend on the RBP residual of every run: the part of its RBP that is still unknown."""

    def begin(self, topic: PooledTopic) -> _ResidualState:
        return _ResidualState(self, self.weights(topic))

    @abstractmethod
    def worth(self, base: Floats, residual: Floats) -> Floats:
        """Return (runs,) factors of the RBP weights, from (runs,) sums of those of relevant and unjudged documents."""


class _ResidualState:
    def __init__(self, order: _ResidualOrder, weights: Floats) -> None:
        self._order = order
        self._weights = weights  # (runs, docs)
        self._base = np.zeros(len(weights))  # (runs,), as is the residual
        self._residual = np.ones(len(weights))

    def scores(self) -> Floats:
        # (runs,) factors times (runs, docs) weights
        return np.asarray(self._order.worth(self._base, self._residual) @ self._weights)

    def learn(self, doc: int, relevant: bool) -> None:
        self._residual -= self._weights[:, doc]
        if relevant:
            self._base += self._weights[:, doc]


@dataclass(frozen=True, kw_only=True)
class RbpB(_ResidualOrder):
    """RBP method B: score(d) = sum over runs of w x resid, where w is the weight of d in the run.

    The residual is resid = 1 - sum of the weights of the judged documents of the run.
    Source: method B of Moffat, Webber and Zobel, Strategic system comparisons via targeted relevance judgments, 2007.
    """

    title: ClassVar[str] = "RBP, by residual"

    def worth(self, base: Floats, residual: Floats) -> Floats:
        return residual


@dataclass(frozen=True, kw_only=True)
class RbpC(_ResidualOrder):
    """RBP method C: score(d) = sum over runs of w x resid x (base + resid / 2)^3, where w is the weight of d.

    base is the sum of the weights of the run's documents judged relevant; resid is the residual, as in `rbp_b`.
    Source: method C of Moffat, Webber and Zobel, Strategic system comparisons via targeted relevance judgments, 2007.
    """

    title: ClassVar[str] = "RBP, by residual and projected score"

    def worth(self, base: Floats, residual: Floats) -> Floats:
        # base + residual / 2 is an estimate of the final RBP; the cube favours the best runs
        return residual * (base + residual / 2) ** 3
