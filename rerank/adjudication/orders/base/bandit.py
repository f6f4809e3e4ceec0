"""Base classes for judging orders that treat runs as the arms of a multi-armed bandit.

Playing an arm means judging the next document of the run. The outcome updates every run that contains the document.
Source: Losada, Parapar and Barreiro, Multi-armed bandits for adjudicating documents in pooling-based evaluation of
information retrieval systems, IP&M 2017.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from rerank.adjudication.orders.base import RandomGenerator, RunCursor, Walk
from rerank.adjudication.pools import Floats, PooledTopic
from rerank.errors import UsageError


@dataclass
class BanditArms:
    """How many documents of each run (an arm of the bandit) were judged relevant and not relevant so far.

    Attributes:
        hits: (runs,) number of relevant judged documents. Forgetting bandits discount older documents.
        misses: (runs,) number of judged documents that are not relevant, discounted in the same way.
        plays: Total number of judged documents.
    """

    hits: Floats
    misses: Floats
    plays: int = 0

    @property
    def means(self) -> Floats:
        """(runs,) estimated probability that the next document is relevant: the mean of Beta(1 + hits, 1 + misses)."""
        return (1 + self.hits) / (2 + self.hits + self.misses)


@dataclass(frozen=True, kw_only=True)
class BanditOrder(ABC):
    """Base class for orders that judge the next document of the run with the largest value. Ties are random."""

    title: ClassVar[str] = ""
    random: ClassVar[bool] = True

    def __call__(self, topic: PooledTopic, rng: RandomGenerator) -> Walk:
        """Yield the next document of the run with the largest value until all documents are judged."""
        cursor, arms = RunCursor.at_top(topic), BanditArms(np.zeros(len(topic.ranks)), np.zeros(len(topic.ranks)))
        # (runs,) whether an arm can still be played
        has_unjudged = np.array(topic.retrieved.any(axis=1))
        for _ in range(len(topic)):
            while True:
                values = np.where(has_unjudged, self.values(arms, rng), -np.inf)
                # ties between arms are broken at random
                best = np.flatnonzero(values == values.max())
                run = int(best[rng.integers(len(best))])
                doc = cursor.next(run)
                if doc is not None:
                    break
                has_unjudged[run] = False
            relevant = yield doc
            self.learn(arms, topic.finders[doc], relevant)

    @abstractmethod
    def values(self, arms: BanditArms, rng: RandomGenerator) -> Floats:
        """Return (runs,) values of the runs. The run with the largest value provides the next document."""

    def learn(self, arms: BanditArms, runs: list[int], relevant: bool) -> None:
        """Count the judgment as a hit or a miss of the ``runs`` that contain the document."""
        arms.plays += 1
        (arms.hits if relevant else arms.misses)[runs] += 1


@dataclass(frozen=True, kw_only=True)
class ForgettingBandit(BanditOrder):
    """Base class for bandits that can give less weight to older outcomes.

    Attributes:
        rate: Fraction by which the earlier outcomes of a run are discounted whenever one of its documents is judged.
            With 0, nothing is forgotten (a stationary bandit); with 1, only the latest outcome is remembered.
    """

    rate: float = 0.0

    def __post_init__(self) -> None:
        """Check that the rate is from 0 to 1."""
        if not 0 <= self.rate <= 1:
            raise UsageError(f"rate is {self.rate}", expected="a number from 0 to 1")

    def learn(self, arms: BanditArms, runs: list[int], relevant: bool) -> None:
        """Discount the earlier outcomes of the ``runs`` that contain the document, then count the judgment."""
        # only the runs that contain the document forget; the outcomes of all others stay
        if self.rate:
            arms.hits[runs] *= 1 - self.rate
            arms.misses[runs] *= 1 - self.rate
        super().learn(arms, runs, relevant)
