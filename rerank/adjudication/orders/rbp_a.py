"""Judging order by the sum of the weights of rank-biased precision (RBP) over the runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from rerank.adjudication.orders.base import StaticOrder, sum_over_pooled_runs
from rerank.adjudication.orders.base.rank_biased import RankBiasedWeights
from rerank.adjudication.pools import Floats, PooledTopic


@dataclass(frozen=True, kw_only=True)
class RbpA(RankBiasedWeights, StaticOrder):
    """RBP method A: score(d) = sum over runs of the weight w = (1 - p) p^(rank - 1) of d in the run.

    Source: method A of Moffat, Webber and Zobel, Strategic system comparisons via targeted relevance judgments, 2007.
    """

    title: ClassVar[str] = "RBP, summed weights"

    def scores(self, topic: PooledTopic) -> Floats:
        """Return an array of shape (docs,): the sum of weights of each document."""
        return sum_over_pooled_runs(self.weights(topic))
