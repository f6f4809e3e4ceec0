"""Judging order by the number of runs that retrieve a document."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from rerank.adjudication.orders.base import StaticOrder
from rerank.adjudication.pools import Floats, PooledTopic


@dataclass(frozen=True, kw_only=True)
class Ntcir(StaticOrder):
    """Order of NTCIR's pools (NTCIRPOOL): documents in more runs first, ties broken by the smaller sum of ranks."""

    title: ClassVar[str] = "NTCIR pool order"

    def scores(self, topic: PooledTopic) -> Floats:
        """Return (docs,) scores: the negated position after sorting by the number of runs, then by the sum of ranks."""
        # the last key is the primary one
        order = np.lexsort((topic.ranks.sum(axis=0), -topic.retrieved.sum(axis=0)))
        keys = np.stack((topic.ranks.sum(axis=0), topic.retrieved.sum(axis=0)))[:, order]
        # documents with equal keys share a position
        new = np.concatenate(([0], (np.diff(keys, axis=1) != 0).any(axis=0).cumsum()))
        scores = np.empty(len(topic))
        scores[order] = -new
        return scores
