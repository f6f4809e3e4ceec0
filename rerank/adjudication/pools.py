"""Pools of documents to judge: for every topic, the documents retrieved by at least one run and their ranks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from rerank.errors import DataError, UsageError, ensure
from rerank.types import UNJUDGED, Qrels, Run

#: Default pool depth, as in TREC's ad hoc tracks.
DEPTH = 100

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False, kw_only=True)
class PooledTopic:
    """The pool of one topic: the documents to judge, each once, and their ranks in the runs."""

    id: str
    #: Document ids. Other fields refer to a document by its index in this tuple.
    docs: tuple[str, ...]
    ranks: Ints  # (runs, docs) rank of the document in the run, from 1; 0 if the document is not in the run
    lengths: Ints  # (runs,) number of documents of each run within the pool depth, judged or not
    union: int  # number of different documents of all runs within the pool depth, judged or not

    def __len__(self) -> int:
        return len(self.docs)

    def reordered(self, docs: Ints) -> PooledTopic:
        """Return the topic with its documents in another order, a permutation of their indices, which breaks ties."""
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
    """The pools of all topics."""

    #: The pools of the topics, in the order of the judgments or, without judgments, of the runs.
    topics: tuple[PooledTopic, ...]
    systems: tuple[str, ...]

    def __len__(self) -> int:
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
    """Build the pools of all topics from the first ``depth`` documents of all runs, by ascending id.

    With judgments, only their topics are pooled, and only judged documents unless ``unjudged`` is True.

    Raises:
        UsageError: The depth is below 1.
        DataError: There are no runs, two runs have the same name, or the pool is empty.
    """
    ensure(depth >= 1, f"depth is {depth}", expected="at least 1", remedy=f"Use {DEPTH}, as in TREC's pools")
    names = tuple(run.name for run in runs)
    ensure(names, "There are no runs to pool", expected="at least one run", error=DataError)
    name, times = Counter(names).most_common(1)[0]
    if times > 1:
        raise DataError(f"{times} runs are named {name!r}", remedy="Pass each run once, with a name of its own")
    judgments = qrels.judged() if qrels is not None else None
    topics = []
    for query in dict.fromkeys(qrels or (query for run in runs for query in run)):
        lists = [run[query].doc_ids[:depth] if query in run else () for run in runs]
        retrieved = {doc for ids in lists for doc in ids}
        docs = sorted(retrieved if judgments is None or unjudged else retrieved.intersection(judgments[query]))
        if not docs:
            continue
        index = {doc: position for position, doc in enumerate(docs)}
        ranks = np.zeros((len(lists), len(docs)), dtype=np.int64)
        for row, ids in zip(ranks, lists, strict=True):
            for rank, doc in enumerate(ids, 1):
                if doc in index:
                    row[index[doc]] = rank
        lengths = np.array([len(ids) for ids in lists], dtype=np.int64)
        topics.append(PooledTopic(id=query, docs=tuple(docs), ranks=ranks, lengths=lengths, union=len(retrieved)))
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


def group_runs_by_name(
    names: Sequence[str], patterns: Sequence[tuple[str, str]], *, fewest: int = 1
) -> dict[str, list[int]]:
    """Assign runs to groups, such as those of one research group, or the repeats of one system, by their names.

    ``patterns`` are pairs of the name of a group and a shell pattern, such as ``("gpt", "gpt-3.5*")``. A run that no
    pattern matches is a group of its own; a pattern must match ``fewest`` runs. The result holds the indices of the
    runs of each group, in the order of the runs.
    """
    members: dict[str, list[int]] = {}
    for index, name in enumerate(names):
        found = list(dict.fromkeys(group for group, pattern in patterns if fnmatchcase(name, pattern)))
        if len(found) > 1:
            raise UsageError(f"Run {name!r} belongs to the groups {' and '.join(found)}", expected="one group per run")
        if not found and any(name == group for group, _ in patterns):
            raise UsageError(f"Run {name!r} has the name of a group of other runs", expected="a unique name")
        members.setdefault(found[0] if found else name, []).append(index)
    for group, pattern in patterns:
        matched = sum(fnmatchcase(name, pattern) for name in names)
        if not matched or len(members[group]) < fewest:
            raise UsageError(f"Pattern {pattern!r} of {group} matches {matched} runs", expected=f"at least {fewest}")
    return members
