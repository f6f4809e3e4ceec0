"""By chance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from rerank.adjudication.orders.base import Chance, Walk
from rerank.adjudication.pools import Topic


@dataclass(frozen=True, kw_only=True)
class Random:
    """Every document with the same chance: what any other order must beat."""

    title: ClassVar[str] = "random"
    random: ClassVar[bool] = True

    def __call__(self, topic: Topic, chance: Chance) -> Walk:
        """See `Order`."""
        for doc in chance.permutation(len(topic)).tolist():  # noqa: UP028 - lists take no answers
            yield doc
