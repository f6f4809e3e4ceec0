"""What is to be judged: for every topic the documents that some run retrieved, and where each run ranked them.

Knows neither orders of judging nor files.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from rerank.errors import DataError, UsageError
from rerank.types import Qrels, Run

#: How deep TREC pools its ad hoc runs.
DEPTH = 100

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False, kw_only=True)
class Topic:
    """The pool of one topic.

    Guarantees: every document is named once, in ascending order of ids, and every rank is one of its run's.

    Attributes:
        id: The topic's id.
        docs: The documents' ids, ascending: a document is known by its place in here.
        ranks: (runs, docs) the document's rank in the run, from 1; 0 where the run lacks it.
        lengths: (runs,) how many documents a run has for this topic, down to the pool's depth, judged or not.
        union: How many documents all runs have together, judged or not.
    """

    id: str
    docs: tuple[str, ...]
    ranks: Ints
    lengths: Ints
    union: int

    def __len__(self) -> int:
        """How many documents there are."""
        return len(self.docs)

    @cached_property
    def retrieved(self) -> Bools:
        """(runs, docs) whether the run has the document."""
        return np.asarray(self.ranks > 0)

    @cached_property
    def lists(self) -> tuple[list[int], ...]:
        """For every run, the places of its documents, best first."""
        order = np.argsort(self.ranks, axis=1, kind="stable")
        found = self.retrieved.sum(axis=1)
        return tuple(row[len(row) - many :].tolist() for row, many in zip(order, found, strict=True))

    @cached_property
    def finders(self) -> tuple[list[int], ...]:
        """For every document, the runs that have it."""
        return tuple(np.flatnonzero(column).tolist() for column in self.retrieved.T)


@dataclass(frozen=True, eq=False, kw_only=True)
class Pool:
    """The pools of all topics.

    Attributes:
        topics: They, in the order of the judgments or of the first run.
        systems: The runs' names.
    """

    topics: tuple[Topic, ...]
    systems: tuple[str, ...]

    def __len__(self) -> int:
        """How many documents there are over all topics."""
        return sum(map(len, self.topics))

    def to_dict(self) -> dict[str, Any]:
        """Counts."""
        sizes = [len(topic) for topic in self.topics]
        return {
            "topics": len(sizes),
            "runs": len(self.systems),
            "documents": sum(sizes),
            "smallest": min(sizes),
            "largest": max(sizes),
        }


def pool(runs: Sequence[Run], *, depth: int = DEPTH, qrels: Qrels | None = None, unjudged: bool = False) -> Pool:
    """Pool runs: the union of their first documents.

    Args:
        runs: The runs.
        depth: How many documents of each run and topic.
        qrels: Judgments; only their topics are pooled, and only what they judge unless ``unjudged``.
        unjudged: Whether documents without a judgment stay.

    Raises:
        UsageError: The depth is below 1.
        DataError: No run, two of one name, or nothing that could be judged.
    """
    if depth < 1:
        raise UsageError(f"depth={depth}", expected="at least 1", remedy=f"TREC's pools took {DEPTH}")
    names = tuple(run.name for run in runs)
    if not names:
        raise DataError("No runs", expected="at least one to take documents from")
    name, times = Counter(names).most_common(1)[0]
    if times > 1:
        raise DataError(f"{times} runs are called {name!r}", remedy="Give each run once, and each another name")
    ids = dict.fromkeys(qrels or (query for run in runs for query in run))
    topics = []
    for query in ids:
        kept = None if qrels is None or unjudged else qrels[query].keys()
        topic = _topic(query, [run[query].doc_ids[:depth] if query in run else () for run in runs], kept)
        if len(topic):
            topics.append(topic)
    if not topics:
        raise DataError(
            f"The {len(names)} runs hold no document that {qrels.name if qrels else 'a topic'} judges",
            remedy="Take runs and judgments of the same topics and documents",
        )
    return Pool(topics=tuple(topics), systems=names)


def _topic(query: str, lists: Sequence[Sequence[str]], kept: Iterable[str] | None) -> Topic:
    found = {doc for ids in lists for doc in ids}
    docs = sorted(found if kept is None else found.intersection(kept))
    place = {doc: at for at, doc in enumerate(docs)}
    ranks = np.zeros((len(lists), len(docs)), dtype=np.int64)
    for row, ids in zip(ranks, lists, strict=True):
        for rank, doc in enumerate(ids, 1):
            if doc in place:
                row[place[doc]] = rank
    lengths = np.array([len(ids) for ids in lists], dtype=np.int64)
    return Topic(id=query, docs=tuple(docs), ranks=ranks, lengths=lengths, union=len(found))
