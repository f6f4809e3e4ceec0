"""Reciprocal rank fusion of the runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from rerank.adjudication.orders.base import ByScore, summed
from rerank.adjudication.pools import Floats, Topic


@dataclass(frozen=True, kw_only=True)
class Rrf(ByScore):
    """score(d) = sum over runs that have d of 1 / (k + rank). Source: Cormack, Clarke and Buettcher, SIGIR 2009.

    Attributes:
        k: The constant; the paper's is 60.
    """

    title: ClassVar[str] = "reciprocal rank fusion"

    k: float = 60.0

    def scores(self, topic: Topic) -> Floats:
        """See `ByScore`."""
        return summed(np.where(topic.retrieved, 1 / (self.k + np.maximum(topic.ranks, 1)), 0.0))
