"""Judging order by the Borda count of each document over the runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from rerank.adjudication.orders.base import StaticOrder, sum_over_pooled_runs
from rerank.adjudication.pools import Floats, PooledTopic


@dataclass(frozen=True, kw_only=True)
class Borda(StaticOrder):
    """Judging order by Borda count, largest score first: score(d) = - sum over runs of rank(d).

    A document that is not in a run gets the mean of the remaining ranks: (t + 1 + N) / 2 for a run of t documents and N
    documents in the union of all runs. Source: Aslam and Montague, Models for metasearch, SIGIR 2001.
    """

    title: ClassVar[str] = "Borda count"

    def scores(self, topic: PooledTopic) -> Floats:
        """Return an array of shape (docs,): the negated sum of each document's ranks over the runs."""
        # (runs,) mean of the ranks t + 1 .. N
        rest = (topic.lengths + 1 + topic.union) / 2
        return -sum_over_pooled_runs(np.where(topic.retrieved, topic.ranks, rest[:, None]))
