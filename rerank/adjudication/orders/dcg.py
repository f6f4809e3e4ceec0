"""Judging order by the sum of a document's DCG discounts over the runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from rerank.adjudication.orders.base import StaticOrder, sum_over_pooled_runs
from rerank.adjudication.pools import Floats, PooledTopic


@dataclass(frozen=True, kw_only=True)
class Dcg(StaticOrder):
    """Judging order by the sum of DCG discounts over the runs, largest first.

    score(d) = sum over the runs that contain d of 1 / log2(rank + 1). Source: Lipani et al. 2017.
    """

    title: ClassVar[str] = "DCG weights"

    def scores(self, topic: PooledTopic) -> Floats:
        """Return an array of shape (docs,): the sum of the discounts of each document."""
        # (runs, docs) terms; documents that are not in a run have rank 0 and are masked; the maximum avoids 1 / log2(1)
        return sum_over_pooled_runs(np.where(topic.retrieved, 1 / np.log2(np.maximum(topic.ranks, 1) + 1), 0.0))
