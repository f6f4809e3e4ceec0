"""CombMNZ of the runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from rerank.adjudication.orders.base import ByScore, summed
from rerank.adjudication.pools import Floats, Topic


@dataclass(frozen=True, kw_only=True)
class Combmnz(ByScore):
    """score(d) = (number of runs that have d) x (sum of its similarities there).

    The similarity is that of the rank, 1 - (rank - 1) / t in a run of t documents, since the scores of a run often are
    but its ranks. Source: Fox and Shaw 1994; Lee, Analyses of multiple evidence combination, SIGIR 1997 (Rank_Sim).
    """

    title: ClassVar[str] = "CombMNZ"

    def scores(self, topic: Topic) -> Floats:
        """See `ByScore`."""
        similar = 1 - (topic.ranks - 1) / np.maximum(topic.lengths, 1)[:, None]
        return np.asarray(topic.retrieved.sum(axis=0) * summed(np.where(topic.retrieved, similar, 0.0)))
