"""Pools of documents to judge: for every topic, the documents retrieved by at least one run and their ranks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from rerank.errors import DataError, UsageError
from rerank.types import UNJUDGED, Qrels, Run

#: Default pool depth, as in TREC's ad hoc tracks.
DEPTH = 100

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False, kw_only=True)
class PooledTopic:
    """The pool of one topic: the documents to judge, and their ranks in the runs.

    Guarantees: every document occurs once, and every rank is the document's rank in that run. `pool_runs` sorts
    documents by ascending id.

    Attributes:
        id: Topic id.
        docs: Document ids. Other fields refer to a document by its index in this tuple.
        ranks: (runs, docs) rank of the document in the run, from 1; 0 if the document is not in the run.
        lengths: (runs,) number of documents of each run within the pool depth, judged or not.
        union: Number of different documents of all runs within the pool depth, judged or not.
    """

    id: str
    docs: tuple[str, ...]
    ranks: Ints
    lengths: Ints
    union: int

    def __len__(self) -> int:
        """Return the number of documents to judge."""
        return len(self.docs)

    def reordered(self, docs: Ints) -> PooledTopic:
        """Return the topic with its documents in another order, given as a permutation of their indices.

        Judging orders break ties by position, so this changes only how ties are broken.
        """
        return replace(self, docs=tuple(self.docs[doc] for doc in docs.tolist()), ranks=self.ranks[:, docs])

    @cached_property
    def retrieved(self) -> Bools:
        """(runs, docs) whether the run contains the document."""
        return np.asarray(self.ranks > 0)

    @cached_property
    def lists(self) -> tuple[list[int], ...]:
        """For each run, the indices of its documents, best rank first."""
        # documents that are not in a run have rank 0 and sort first; the last entries of a row are the run's documents
        order = np.argsort(self.ranks, axis=1, kind="stable")
        lengths = self.retrieved.sum(axis=1)
        return tuple(row[len(row) - length :].tolist() for row, length in zip(order, lengths, strict=True))

    @cached_property
    def finders(self) -> tuple[list[int], ...]:
        """For each document, the indices of the runs that contain it."""
        return tuple(np.flatnonzero(column).tolist() for column in self.retrieved.T)


@dataclass(frozen=True, eq=False, kw_only=True)
class Pool:
    """The pools of all topics.

    Attributes:
        topics: The pools of the topics, in the order of the judgments or, without judgments, of the runs.
        systems: Names of the runs.
    """

    topics: tuple[PooledTopic, ...]
    systems: tuple[str, ...]

    def __len__(self) -> int:
        """Return the total number of documents over all topics."""
        return sum(map(len, self.topics))

    def to_dict(self) -> dict[str, Any]:
        """Return the number of topics, runs and documents, and the sizes of the smallest and the largest pool."""
        sizes = [len(topic) for topic in self.topics]
        return {
            "topics": len(sizes),
            "runs": len(self.systems),
            "documents": sum(sizes),
            "smallest": min(sizes),
            "largest": max(sizes),
        }


def pool_runs(runs: Sequence[Run], *, depth: int = DEPTH, qrels: Qrels | None = None, unjudged: bool = False) -> Pool:
    """Build the pools of all topics from the first documents of all runs.

    Args:
        runs: The runs.
        depth: Pool depth: number of documents that each run contributes per topic.
        qrels: Judgments. If given, only topics in the judgments are pooled, and only judged documents unless
            ``unjudged`` is True.
        unjudged: Whether to keep documents without a judgment.

    Raises:
        UsageError: The depth is below 1.
        DataError: There are no runs, two runs have the same name, or the pool is empty.
    """
    if depth < 1:
        raise UsageError(f"depth is {depth}", expected="at least 1", remedy=f"Use {DEPTH}, as in TREC's pools")
    names = tuple(run.name for run in runs)
    if not names:
        raise DataError("There are no runs to pool", expected="at least one run")
    name, times = Counter(names).most_common(1)[0]
    if times > 1:
        raise DataError(f"{times} runs are named {name!r}", remedy="Pass each run once, with a name of its own")
    judgments = qrels.judged() if qrels is not None else None
    ids = dict.fromkeys(qrels or (query for run in runs for query in run))
    topics = []
    for query in ids:
        judged = None if judgments is None or unjudged else judgments[query].keys()
        topic = _pool_topic(query, [run[query].doc_ids[:depth] if query in run else () for run in runs], judged)
        if len(topic):
            topics.append(topic)
    if not topics:
        raise DataError(
            f"No document of the {len(names)} runs is judged in {qrels.name}"
            if qrels
            else "The runs have no documents",
            remedy="Check that the runs have documents, and that judgments (if given) cover the same documents",
        )
    return Pool(topics=tuple(topics), systems=names)


def add_unjudged_documents(qrels: Qrels, pool: Pool) -> Qrels:
    """Return the judgments with all other documents of the pool marked as `UNJUDGED`, which infAP needs."""
    rows = {topic: dict(judged) for topic, judged in qrels.items()}
    for topic in pool.topics:
        rows[topic.id] = {**dict.fromkeys(topic.docs, UNJUDGED), **rows.get(topic.id, {})}
    return Qrels(rows, name=qrels.name)


def _pool_topic(query: str, lists: Sequence[Sequence[str]], judged: Iterable[str] | None) -> PooledTopic:
    """Build the pool of one query from the runs' lists. Keep only documents in ``judged`` unless it is None."""
    retrieved = {doc for ids in lists for doc in ids}
    docs = sorted(retrieved if judged is None else retrieved.intersection(judged))
    index = {doc: position for position, doc in enumerate(docs)}
    ranks = np.zeros((len(lists), len(docs)), dtype=np.int64)
    for row, ids in zip(ranks, lists, strict=True):
        for rank, doc in enumerate(ids, 1):
            if doc in index:
                row[index[doc]] = rank
    lengths = np.array([len(ids) for ids in lists], dtype=np.int64)
    return PooledTopic(id=query, docs=tuple(docs), ranks=ranks, lengths=lengths, union=len(retrieved))
