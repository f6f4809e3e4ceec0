"""Judging order by Condorcet fusion: the majority of runs decides between each pair of documents."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from rerank.adjudication.orders.base import StaticOrder
from rerank.adjudication.pools import Bools, Floats, PooledTopic


@dataclass(frozen=True, kw_only=True)
class Condorcet(StaticOrder):
    """Condorcet fusion: a document precedes another if more runs rank it above the other than below it.

    Documents that are not in a run rank below all documents of the run. Majorities may be cyclic, so the order is a
    Hamiltonian path of the majority graph: documents are inserted one by one in the order of the pool, each before
    the first document that it beats. Source: Montague and Aslam, Condorcet fusion for improved retrieval, CIKM 2002.
    """

    title: ClassVar[str] = "Condorcet fusion"

    def scores(self, topic: PooledTopic) -> Floats:
        """Return an array of shape (docs,): the negated position of each document in the Hamiltonian path."""
        beats = condorcet_pool_majorities(topic)
        path = np.zeros(0, dtype=np.int64)
        for doc in range(len(topic)):
            # insert before the first document of the path that it beats
            beaten = beats[doc, path]
            path = np.insert(path, int(beaten.argmax()) if beaten.any() else len(path), doc)
        scores = np.empty(len(topic))
        scores[path] = -np.arange(len(path))
        return scores


def condorcet_pool_majorities(topic: PooledTopic) -> Bools:
    """Return a boolean array of shape (docs, docs): whether more runs rank document i above j than below it."""
    votes = np.zeros((len(topic), len(topic)), dtype=np.int32)
    for row in np.where(topic.retrieved, topic.ranks, np.iinfo(np.int64).max):
        # (docs, docs) votes for the row document over the column document
        votes += row[:, None] < row[None]
    return np.asarray(votes > votes.T)
