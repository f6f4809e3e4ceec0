"""Judging order by CombMNZ, a fusion of the runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from rerank.adjudication.orders.base import StaticOrder, sum_over_pooled_runs
from rerank.adjudication.pools import Floats, PooledTopic


@dataclass(frozen=True, kw_only=True)
class Combmnz(StaticOrder):
    """CombMNZ fusion: score(d) = (number of runs that contain d) x (sum of the similarities of d in these runs).

    The similarity of a document in a run of t documents is 1 - (rank - 1) / t. It is based on ranks, because the scores
    in run files often only encode ranks. Source: Fox and Shaw 1994; Lee, Analyses of multiple evidence combination,
    SIGIR 1997 (Rank_Sim).
    """

    title: ClassVar[str] = "CombMNZ"

    def scores(self, topic: PooledTopic) -> Floats:
        """Return an array of shape (docs,): the CombMNZ score of each document."""
        # (runs, docs); the lower bound on the length avoids 0 / 0 for a run without documents, which is masked below
        similarity = 1 - (topic.ranks - 1) / np.maximum(topic.lengths, 1)[:, None]
        return np.asarray(
            topic.retrieved.sum(axis=0) * sum_over_pooled_runs(np.where(topic.retrieved, similarity, 0.0))
        )
