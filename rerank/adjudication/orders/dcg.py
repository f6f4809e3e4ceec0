"""Sum of the DCG discounts over the runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from rerank.adjudication.orders.base import StaticOrder, sum_over_pooled_runs
from rerank.adjudication.pools import Floats, PooledTopic


@dataclass(frozen=True, kw_only=True)
class Dcg(StaticOrder):
    """score(d) = sum over runs with d of 1 / log2(rank + 1), its weight in their DCG. Lipani et al. 2017."""

    title: ClassVar[str] = "DCG weights"

    def scores(self, topic: PooledTopic) -> Floats:
        """Return the sum of the discounts of each document, (docs,)."""
        # (runs, docs) terms; the lower bound avoids 1 / log2(1) for documents that a run lacks, which are masked
        return sum_over_pooled_runs(np.where(topic.retrieved, 1 / np.log2(np.maximum(topic.ranks, 1) + 1), 0.0))
