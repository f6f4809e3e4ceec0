"""Condorcet's majority between every two documents."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from rerank.adjudication.orders.base import ByScore
from rerank.adjudication.pools import Bools, Floats, Topic


@dataclass(frozen=True, kw_only=True)
class Condorcet(ByScore):
    """A document stands before another if more runs rank it higher; no later one beats the one just before it.

    What a run lacks is below all that it has. Majorities may run in circles, so the order is a Hamiltonian path through
    them: documents are inserted by ascending id, each before the first that it beats. Source: Montague and Aslam,
    Condorcet fusion for improved retrieval, CIKM 2002.
    """

    title: ClassVar[str] = "Condorcet fusion"

    def scores(self, topic: Topic) -> Floats:
        """The place in the path, negated."""
        beats = majorities(topic)
        path = np.zeros(0, dtype=np.int64)
        for doc in range(len(topic)):
            beaten = beats[doc, path]
            path = np.insert(path, int(beaten.argmax()) if beaten.any() else len(path), doc)
        scores = np.empty(len(topic))
        scores[path] = -np.arange(len(path))
        return scores


def majorities(topic: Topic) -> Bools:
    """(docs, docs) whether more runs rank the first above the second than the other way."""
    votes = np.zeros((len(topic), len(topic)), dtype=np.int32)
    for row in np.where(topic.retrieved, topic.ranks, np.iinfo(np.int64).max):
        votes += row[:, None] < row[None]
    return np.asarray(votes > votes.T)
