"""Weights of rank-biased precision, summed over the runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from rerank.adjudication.orders.base import ByScore, summed
from rerank.adjudication.orders.base.rank_biased import _Persistent
from rerank.adjudication.pools import Floats, Topic


@dataclass(frozen=True, kw_only=True)
class RbpA(_Persistent, ByScore):
    """score(d) = sum over runs of w; w = (1 - p) p^(rank - 1).

    Source: method A of Moffat, Webber and Zobel, Strategic system comparisons via targeted relevance judgments, 2007.
    """

    title: ClassVar[str] = "RBP, summed weights"

    def scores(self, topic: Topic) -> Floats:
        """See `ByScore`."""
        return summed(self.weights(topic))
