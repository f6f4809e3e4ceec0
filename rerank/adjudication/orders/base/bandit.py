"""What the orders that see runs as the arms of a bandit share.

A play of an arm is to judge the run's next document; what is learnt of it goes to every run that has it. Source:
Losada, Parapar and Barreiro, Multi-armed bandits for adjudicating documents in pooling-based evaluation of information
retrieval systems, IP&M 2017.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from rerank.adjudication.orders.base import Chance, Cursor, Walk
from rerank.adjudication.pools import Floats, Topic
from rerank.errors import UsageError


@dataclass
class Arms:
    """What is known of every run.

    Attributes:
        hits: (runs,) judged documents that were relevant; less where older ones are forgotten.
        misses: (runs,) the same for those that were not.
        plays: How many documents were judged.
    """

    hits: Floats
    misses: Floats
    plays: int = 0

    @property
    def means(self) -> Floats:
        """(runs,) the mean of Beta(1 + hits, 1 + misses)."""
        return (1 + self.hits) / (2 + self.hits + self.misses)


@dataclass(frozen=True, kw_only=True)
class Bandit(ABC):
    """An order that plays the arm of the largest value, ties by chance."""

    title: ClassVar[str] = ""
    random: ClassVar[bool] = True

    def __call__(self, topic: Topic, chance: Chance) -> Walk:
        """See `Order`."""
        cursor, arms = Cursor.of(topic), Arms(np.zeros(len(topic.ranks)), np.zeros(len(topic.ranks)))
        left = np.array(topic.retrieved.any(axis=1))
        for _ in range(len(topic)):
            while True:
                values = np.where(left, self.values(arms, chance), -np.inf)
                best = np.flatnonzero(values == values.max())
                run = int(best[chance.integers(len(best))])
                doc = cursor.next(run)
                if doc is not None:
                    break
                left[run] = False
            relevant = yield doc
            self.learn(arms, topic.finders[doc], relevant)

    @abstractmethod
    def values(self, arms: Arms, chance: Chance) -> Floats:
        """(runs,) the largest is played next."""

    def learn(self, arms: Arms, runs: list[int], relevant: bool) -> None:
        """Take one judgment in, for the ``runs`` that have the document."""
        arms.plays += 1
        (arms.hits if relevant else arms.misses)[runs] += 1


@dataclass(frozen=True, kw_only=True)
class Forgetful(Bandit):
    """An arm's older outcomes may count for less.

    Attributes:
        rate: The share of what is known of a run that is forgotten at each of its judgments: with 0 nothing (a
            stationary bandit), with 1 all but the last outcome.
    """

    rate: float = 0.0

    def __post_init__(self) -> None:
        """Check the options."""
        if not 0 <= self.rate <= 1:
            raise UsageError(f"rate={self.rate}", expected="a number from 0 to 1")

    def learn(self, arms: Arms, runs: list[int], relevant: bool) -> None:
        """See `Bandit`."""
        if self.rate:
            arms.hits[runs] *= 1 - self.rate
            arms.misses[runs] *= 1 - self.rate
        super().learn(arms, runs, relevant)
