"""Random judging order, used as a baseline."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from rerank.adjudication.orders.base import RandomGenerator, Walk
from rerank.adjudication.pools import PooledTopic


@dataclass(frozen=True, kw_only=True)
class Random:
    """A uniformly random order, the baseline for all other orders."""

    title: ClassVar[str] = "random"
    random: ClassVar[bool] = True

    def __call__(self, topic: PooledTopic, rng: RandomGenerator) -> Walk:
        """Yield the documents of a topic in judging order."""
        for doc in rng.permutation(len(topic)).tolist():  # noqa: UP028 - lists receive no judgments
            yield doc
