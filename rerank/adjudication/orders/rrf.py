"""Judging order by reciprocal rank fusion of the runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from rerank.adjudication.orders.base import StaticOrder, sum_over_pooled_runs
from rerank.adjudication.pools import Floats, PooledTopic


@dataclass(frozen=True, kw_only=True)
class Rrf(StaticOrder):
    """Judging order by reciprocal rank fusion: score(d) = sum over the runs that contain d of 1 / (k + rank).

    Source: Cormack, Clarke and Buettcher, SIGIR 2009.

    Attributes:
        k: Constant in the denominator; the paper uses 60.
    """

    title: ClassVar[str] = "reciprocal rank fusion"

    k: float = 60.0

    def scores(self, topic: PooledTopic) -> Floats:
        """Return an array of shape (docs,): the fused score of each document."""
        # (runs, docs) terms; documents that are not in a run have rank 0 and are masked
        return sum_over_pooled_runs(np.where(topic.retrieved, 1 / (self.k + np.maximum(topic.ranks, 1)), 0.0))
