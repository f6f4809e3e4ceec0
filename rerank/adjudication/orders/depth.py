"""Judging order of depth pooling: by the best rank of a document in any run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from rerank.adjudication.orders.base import StaticOrder
from rerank.adjudication.pools import Floats, PooledTopic


@dataclass(frozen=True, kw_only=True)
class Depth(StaticOrder):
    """Depth pooling: all documents at rank 1 of any run, then all documents at rank 2, and so on.

    score(d) = - min over runs of rank(d). Source: Sparck Jones and van Rijsbergen, 1975; Take@n of Lipani et al. 2017.
    """

    title: ClassVar[str] = "depth pooling"

    def scores(self, topic: PooledTopic) -> Floats:
        """Return an array of shape (docs,): the negated best rank of each document."""
        # (runs, docs) ranks; infinite if the document is not in the run
        return np.asarray(-np.where(topic.retrieved, topic.ranks, np.inf).min(axis=0))
