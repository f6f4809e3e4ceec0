"""By document id."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from rerank.adjudication.orders.base import StaticOrder
from rerank.adjudication.pools import Floats, PooledTopic


@dataclass(frozen=True, kw_only=True)
class Docid(StaticOrder):
    """Ascending document ids, which are independent of relevance; NIST's assessors see their pools in this order."""

    title: ClassVar[str] = "document id"

    def scores(self, topic: PooledTopic) -> Floats:
        """Return equal scores, so that ids decide, (docs,)."""
        return np.zeros(len(topic))
