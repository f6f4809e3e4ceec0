"""By the best rank in any run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from rerank.adjudication.orders.base import ByScore
from rerank.adjudication.pools import Floats, Topic


@dataclass(frozen=True, kw_only=True)
class Depth(ByScore):
    """The union of all first documents, then of all second ones: pooling to a depth, stopped anywhere.

    score(d) = - min over runs of rank(d). Source: Sparck Jones and van Rijsbergen, 1975; Take@n of Lipani et al. 2017.
    """

    title: ClassVar[str] = "depth pooling"

    def scores(self, topic: Topic) -> Floats:
        """See `ByScore`."""
        return np.asarray(-np.where(topic.retrieved, topic.ranks, np.inf).min(axis=0))
