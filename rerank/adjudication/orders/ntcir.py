"""By the number of runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from rerank.adjudication.orders.base import ByScore
from rerank.adjudication.pools import Floats, Topic


@dataclass(frozen=True, kw_only=True)
class Ntcir(ByScore):
    """More runs first; among as many, the smaller sum of ranks. How NTCIR sorts its pools (NTCIRPOOL)."""

    title: ClassVar[str] = "NTCIR pool order"

    def scores(self, topic: Topic) -> Floats:
        """The place when sorted by both, negated, for there are two keys."""
        order = np.lexsort((topic.ranks.sum(axis=0), -topic.retrieved.sum(axis=0)))
        keys = np.stack((topic.ranks.sum(axis=0), topic.retrieved.sum(axis=0)))[:, order]
        new = np.concatenate(([0], (np.diff(keys, axis=1) != 0).any(axis=0).cumsum()))
        scores = np.empty(len(topic))
        scores[order] = -new
        return scores
