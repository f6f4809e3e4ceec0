"""Judging orders that need no judgments: fusions of the pooled runs, run files, document ids and random orders."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from rerank.adjudication.orders.base import RandomGenerator, RankBiasedWeights, StaticOrder, Walk
from rerank.adjudication.pools import Bools, Floats, PooledTopic
from rerank.errors import DataError, ensure
from rerank.io.run_files import read_run


def sum_over_runs(values: Floats) -> Floats:
    """Sum (runs, docs) values over runs, sorted first, so that the sum is independent of the order of the runs."""
    return np.asarray(np.sort(values, axis=0).sum(axis=0))


@dataclass(frozen=True, kw_only=True)
class Random:
    """A uniformly random order, the baseline for all other orders."""

    title: ClassVar[str] = "random"
    random: ClassVar[bool] = True

    def __call__(self, topic: PooledTopic, rng: RandomGenerator) -> Walk:
        for doc in rng.permutation(len(topic)).tolist():  # noqa: UP028 - lists receive no judgments
            yield doc


@dataclass(frozen=True, kw_only=True)
class Docid(StaticOrder):
    """Order by ascending document id, which is independent of relevance. NIST's assessors judge pools in this order."""

    title: ClassVar[str] = "document id"
    random: ClassVar[bool] = False

    def scores(self, topic: PooledTopic) -> Floats:
        return np.zeros(len(topic))  # equal scores, so that documents keep the pool's order


@dataclass(frozen=True, kw_only=True)
class Depth(StaticOrder):
    """Depth pooling: all documents at rank 1 of any run, then all documents at rank 2, and so on.

    score(d) = - min over runs of rank(d). Source: Sparck Jones and van Rijsbergen, 1975; Take@n of Lipani et al. 2017.
    """

    title: ClassVar[str] = "depth pooling"

    def scores(self, topic: PooledTopic) -> Floats:
        # (runs, docs) ranks; infinite if the document is not in the run
        return np.asarray(-np.where(topic.retrieved, topic.ranks, np.inf).min(axis=0))


@dataclass(frozen=True, kw_only=True)
class Borda(StaticOrder):
    """Judging order by Borda count, largest score first: score(d) = - sum over runs of rank(d).

    A document that is not in a run gets the mean of the remaining ranks: (t + 1 + N) / 2 for a run of t documents and N
    documents in the union of all runs. Source: Aslam and Montague, Models for metasearch, SIGIR 2001.
    """

    title: ClassVar[str] = "Borda count"

    def scores(self, topic: PooledTopic) -> Floats:
        # (runs,) mean of the ranks t + 1 .. N
        rest = (topic.lengths + 1 + topic.union) / 2
        return -sum_over_runs(np.where(topic.retrieved, topic.ranks, rest[:, None]))


@dataclass(frozen=True, kw_only=True)
class Combmnz(StaticOrder):
    """CombMNZ fusion: score(d) = (number of runs that contain d) x (sum of the similarities of d in these runs).

    The similarity of a document in a run of t documents is 1 - (rank - 1) / t. It is based on ranks, because the scores
    in run files often only encode ranks. Source: Fox and Shaw 1994; Lee, Analyses of multiple evidence combination,
    SIGIR 1997 (Rank_Sim).
    """

    title: ClassVar[str] = "CombMNZ"

    def scores(self, topic: PooledTopic) -> Floats:
        # (runs, docs); the lower bound on the length avoids 0 / 0 for a run without documents, which is masked below
        similarity = 1 - (topic.ranks - 1) / np.maximum(topic.lengths, 1)[:, None]
        return np.asarray(topic.retrieved.sum(axis=0) * sum_over_runs(np.where(topic.retrieved, similarity, 0.0)))


@dataclass(frozen=True, kw_only=True)
class Condorcet(StaticOrder):
    """Condorcet fusion: a document precedes another if more runs rank it above the other than below it.

    Documents that are not in a run rank below all documents of the run. Majorities may be cyclic, so the order is a
    Hamiltonian path of the majority graph: documents are inserted one by one in the order of the pool, each before
    the first document that it beats. Source: Montague and Aslam, Condorcet fusion for improved retrieval, CIKM 2002.
    """

    title: ClassVar[str] = "Condorcet fusion"

    def scores(self, topic: PooledTopic) -> Floats:
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
    """Return (docs, docs) whether more runs rank the row document above the column document than below it."""
    votes = np.zeros((len(topic), len(topic)), dtype=np.int32)
    for row in np.where(topic.retrieved, topic.ranks, np.iinfo(np.int64).max):
        votes += row[:, None] < row[None]
    return np.asarray(votes > votes.T)


@dataclass(frozen=True, kw_only=True)
class Rrf(StaticOrder):
    """Judging order by reciprocal rank fusion: score(d) = sum over the runs that contain d of 1 / (k + rank).

    Source: Cormack, Clarke and Buettcher, SIGIR 2009; the paper uses k = 60.
    """

    title: ClassVar[str] = "reciprocal rank fusion"

    k: float = 60.0

    def scores(self, topic: PooledTopic) -> Floats:
        # (runs, docs) terms; documents that are not in a run have rank 0 and are masked
        return sum_over_runs(np.where(topic.retrieved, 1 / (self.k + np.maximum(topic.ranks, 1)), 0.0))


@dataclass(frozen=True, kw_only=True)
class Dcg(StaticOrder):
    """Judging order by the sum of DCG discounts over the runs, largest first.

    score(d) = sum over the runs that contain d of 1 / log2(rank + 1). Source: Lipani et al. 2017.
    """

    title: ClassVar[str] = "DCG weights"

    def scores(self, topic: PooledTopic) -> Floats:
        # (runs, docs) terms; documents that are not in a run have rank 0 and are masked; the maximum avoids 1 / log2(1)
        return sum_over_runs(np.where(topic.retrieved, 1 / np.log2(np.maximum(topic.ranks, 1) + 1), 0.0))


@dataclass(frozen=True, kw_only=True)
class RbpA(RankBiasedWeights, StaticOrder):
    """RBP method A: score(d) = sum over runs of the weight w = (1 - p) p^(rank - 1) of d in the run.

    Source: method A of Moffat, Webber and Zobel, Strategic system comparisons via targeted relevance judgments, 2007.
    """

    title: ClassVar[str] = "RBP, summed weights"

    def scores(self, topic: PooledTopic) -> Floats:
        return sum_over_runs(self.weights(topic))


@dataclass(frozen=True, kw_only=True)
class Ntcir(StaticOrder):
    """Order of NTCIR's pools (NTCIRPOOL): documents in more runs first, ties broken by the smaller sum of ranks."""

    title: ClassVar[str] = "NTCIR pool order"

    def scores(self, topic: PooledTopic) -> Floats:
        # the last key is the primary one
        order = np.lexsort((topic.ranks.sum(axis=0), -topic.retrieved.sum(axis=0)))
        keys = np.stack((topic.ranks.sum(axis=0), topic.retrieved.sum(axis=0)))[:, order]
        # documents with equal keys share a position
        new = np.concatenate(([0], (np.diff(keys, axis=1) != 0).any(axis=0).cumsum()))
        scores = np.empty(len(topic))
        scores[order] = -new
        return scores


class Llm(StaticOrder):
    """Order given by a run file or a folder of run files, such as the output of ``rerank run``.

    Several runs are combined by reciprocal rank fusion with k = 60. Documents that no run file contains come last,
    ordered by their best rank in the runs of the pool.
    """

    title: ClassVar[str] = "order of an LLM"

    def __init__(self, path: str) -> None:
        location = Path(path)
        files = sorted(f for f in location.iterdir() if f.is_file()) if location.is_dir() else [location]
        ensure(files, f"The folder {path} is empty", expected="a folder with run files", error=DataError)
        self._fused: dict[str, dict[str, float]] = {}
        for file in files:
            for query, ranking in read_run(file).items():
                scores = self._fused.setdefault(query, {})
                for rank, doc in enumerate(ranking.doc_ids, 1):
                    scores[doc] = scores.get(doc, 0.0) + 1 / (60 + rank)

    def scores(self, topic: PooledTopic) -> Floats:
        fused: Mapping[str, float] = self._fused.get(topic.id, {})
        known = np.array([fused.get(doc, 0.0) for doc in topic.docs])
        # fused scores are positive and negated ranks are negative, so documents in the run files precede all others
        return np.where(known > 0, known, Depth().scores(topic))
