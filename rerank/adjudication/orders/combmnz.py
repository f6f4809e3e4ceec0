"""CombMNZ fusion of the runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from rerank.adjudication.orders.base import StaticOrder, sum_over_pooled_runs
from rerank.adjudication.pools import Floats, PooledTopic


@dataclass(frozen=True, kw_only=True)
class Combmnz(StaticOrder):
    """score(d) = (number of runs with d) x (sum of its similarities in them).

    The similarity is based on the rank, 1 - (rank - 1) / t in a run of t documents, because scores of runs often only
    encode ranks. Source: Fox and Shaw 1994; Lee, Analyses of multiple evidence combination, SIGIR 1997 (Rank_Sim).
    """

    title: ClassVar[str] = "CombMNZ"

    def scores(self, topic: PooledTopic) -> Floats:
        """Return the CombMNZ score of each document, (docs,)."""
        # (runs, docs); a run without documents has no entries, so the lower bound of its length only avoids 0 / 0
        similarity = 1 - (topic.ranks - 1) / np.maximum(topic.lengths, 1)[:, None]
        return np.asarray(
            topic.retrieved.sum(axis=0) * sum_over_pooled_runs(np.where(topic.retrieved, similarity, 0.0))
        )
