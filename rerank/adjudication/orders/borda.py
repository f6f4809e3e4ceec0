"""Borda count of the runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from rerank.adjudication.orders.base import StaticOrder, sum_over_pooled_runs
from rerank.adjudication.pools import Floats, PooledTopic


@dataclass(frozen=True, kw_only=True)
class Borda(StaticOrder):
    """score(d) = - sum over runs of rank(d); documents that a run lacks share the mean of the remaining ranks.

    With N documents in the union and t in the run, that mean is (t + 1 + N) / 2. Source: Aslam and Montague, Models for
    metasearch, SIGIR 2001.
    """

    title: ClassVar[str] = "Borda count"

    def scores(self, topic: PooledTopic) -> Floats:
        """Return the negated sum of ranks, (docs,)."""
        # (runs,) mean of the ranks t + 1 .. N
        rest = (topic.lengths + 1 + topic.union) / 2
        return -sum_over_pooled_runs(np.where(topic.retrieved, topic.ranks, rest[:, None]))
