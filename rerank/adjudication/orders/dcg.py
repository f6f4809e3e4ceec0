"""Discounts of DCG, summed over the runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from rerank.adjudication.orders.base import ByScore, summed
from rerank.adjudication.pools import Floats, Topic


@dataclass(frozen=True, kw_only=True)
class Dcg(ByScore):
    """score(d) = sum over runs that have d of 1 / log2(rank + 1), what it adds to their DCG. Lipani et al. 2017."""

    title: ClassVar[str] = "DCG weights"

    def scores(self, topic: Topic) -> Floats:
        """See `ByScore`."""
        return summed(np.where(topic.retrieved, 1 / np.log2(np.maximum(topic.ranks, 1) + 1), 0.0))
