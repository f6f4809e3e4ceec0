"""Judging order by document id."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from rerank.adjudication.orders.base import StaticOrder
from rerank.adjudication.pools import Floats, PooledTopic


@dataclass(frozen=True, kw_only=True)
class Docid(StaticOrder):
    """Order by ascending document id, which is independent of relevance. NIST's assessors judge pools in this order."""

    title: ClassVar[str] = "document id"
    random: ClassVar[bool] = False

    def scores(self, topic: PooledTopic) -> Floats:
        """Return an array of shape (docs,) with equal scores, so that documents keep the pool's order (by id)."""
        return np.zeros(len(topic))
