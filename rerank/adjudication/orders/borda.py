"""Borda's count of the runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from rerank.adjudication.orders.base import ByScore, summed
from rerank.adjudication.pools import Floats, Topic


@dataclass(frozen=True, kw_only=True)
class Borda(ByScore):
    """score(d) = - sum over runs of rank(d); what a run lacks shares the mean of the ranks that are left.

    With N documents in the union and t in the run, that mean is (t + 1 + N) / 2. Source: Aslam and Montague, Models
    for metasearch, SIGIR 2001.
    """

    title: ClassVar[str] = "Borda count"

    def scores(self, topic: Topic) -> Floats:
        """See `ByScore`."""
        rest = (topic.lengths + 1 + topic.union) / 2
        return -summed(np.where(topic.retrieved, topic.ranks, rest[:, None]))
