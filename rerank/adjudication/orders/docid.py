"""By document id."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from rerank.adjudication.orders.base import ByScore
from rerank.adjudication.pools import Floats, Topic


@dataclass(frozen=True, kw_only=True)
class Docid(ByScore):
    """Ascending document ids, which say nothing of relevance: how NIST's assessors are shown their pools."""

    title: ClassVar[str] = "document id"

    def scores(self, topic: Topic) -> Floats:
        """All the same, so that ids decide."""
        return np.zeros(len(topic))
