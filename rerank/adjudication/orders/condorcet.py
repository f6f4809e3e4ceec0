"""Condorcet fusion of the runs, by majority between every two documents."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from rerank.adjudication.orders.base import StaticOrder
from rerank.adjudication.pools import Bools, Floats, PooledTopic


@dataclass(frozen=True, kw_only=True)
class Condorcet(StaticOrder):
    """A document precedes another if more runs rank it higher.

    Documents that a run lacks rank below those that it has. Majorities may be cyclic, so the order is a Hamiltonian
    path of the majority graph: documents are inserted by ascending id, each before the first that it beats. Source:
    Montague and Aslam, Condorcet fusion for improved retrieval, CIKM 2002.
    """

    title: ClassVar[str] = "Condorcet fusion"

    def scores(self, topic: PooledTopic) -> Floats:
        """Return the negated position in the path, (docs,)."""
        beats = condorcet_majorities(topic)
        path = np.zeros(0, dtype=np.int64)
        for doc in range(len(topic)):
            # insert before the first document of the path that it beats
            beaten = beats[doc, path]
            path = np.insert(path, int(beaten.argmax()) if beaten.any() else len(path), doc)
        scores = np.empty(len(topic))
        scores[path] = -np.arange(len(path))
        return scores


def condorcet_majorities(topic: PooledTopic) -> Bools:
    """Return whether more runs rank the first document above the second than the reverse, (docs, docs)."""
    votes = np.zeros((len(topic), len(topic)), dtype=np.int32)
    for row in np.where(topic.retrieved, topic.ranks, np.iinfo(np.int64).max):
        # (docs, docs) votes for the row document over the column document
        votes += row[:, None] < row[None]
    return np.asarray(votes > votes.T)
