"""Benchmark-specific measures: their formulas, and their classes for ir_measures with their own provider.

A name consists of the benchmark, an underscore and the name of a similar measure in ir_measures: ``INQUIRE_AP@50``.
Importing this module imports ir_measures; `register_benchmark_measures` adds the measures to it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import ir_measures
import numpy as np
import numpy.typing as npt
from ir_measures import Evaluator, Measure, Metric, Provider
from ir_measures.measures.base import Agg


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class JudgedRanking:
    """The ranked list of one query with its relevance judgments."""

    grades: npt.NDArray[np.int64]  #: (documents,) grades of the retrieved documents, best rank first; 0 if unjudged.
    scores: npt.NDArray[np.float64]  #: (documents,) scores of the retrieved documents, in non-increasing order.
    judged: npt.NDArray[np.int64]  #: (judgments,) grades of all judged documents, retrieved or not.

    def hits(self, rel: int, cutoff: int) -> npt.NDArray[np.bool_]:
        """Return (min(documents, cutoff),) whether each document is relevant."""
        return np.asarray(self.grades[:cutoff] >= rel)

    def positives(self, rel: int) -> int:
        """Return R, the number of relevant documents in the judgments."""
        return int((self.judged >= rel).sum())

    def ends(self, cutoff: int) -> npt.NDArray[np.intp]:
        """Return (groups,) the last rank, within the cutoff, of each group of tied documents."""
        scores = self.scores[:cutoff]
        return np.append(np.flatnonzero(np.diff(scores)) + 1, len(scores))


class RatioTerm(float):
    """One query's numerator and denominator, summed over queries in micro-averaged measures, and their quotient."""

    __slots__ = ("part", "whole")
    part: float
    whole: float

    def __new__(cls, part: float, whole: float) -> RatioTerm:
        term = super().__new__(cls, part / whole if whole else 0.0)
        term.part, term.whole = part, whole
        return term


def inquire_ap(listed: JudgedRanking, rel: int, cutoff: int) -> float:
    """Compute average precision within the first k ranks, as the benchmark INQUIRE defines it.

    The value is 1 / min(R, k) times the sum, over groups of tied documents, of the number of hits in the group times
    the precision at the group's last rank. Without ties, this is the sum of the precision at every hit.

    Source: AP@k in INQUIRE's ``src/metrics.py``. It multiplies scikit-learn's ``average_precision_score`` of the first
    k documents by hits / min(R, k).
    """
    hits = listed.hits(rel, cutoff)
    if not hits.any():
        return 0.0
    # (groups,) last rank of each group of ties; without ties, every rank
    ends = listed.ends(cutoff)
    hits_so_far = np.cumsum(hits)[ends - 1]  # (groups,) number of hits up to the end of each group
    # sum over groups of (hits in the group) * (precision at its end)
    return float(np.sum(np.diff(hits_so_far, prepend=0) * hits_so_far / ends) / min(listed.positives(rel), cutoff))


def inquire_ndcg(listed: JudgedRanking, rel: int, cutoff: int) -> float:
    """Compute INQUIRE's nDCG@k: binary gain, discount log2(rank + 1), ideal list of min(R, k) relevant documents.

    Every document in a group of tied documents gets the mean gain of the group, which gives the expected value over
    all orders of the ties (McSherry and Najork, ECIR 2008).

    Source: nDCG in INQUIRE's ``src/metrics.py``. It appends the relevant documents that were not retrieved to the list
    and calls scikit-learn's ``ndcg_score``.
    """
    hits = listed.hits(rel, cutoff)
    if not hits.any():
        return 0.0
    best = min(listed.positives(rel), cutoff)
    # discounted[i] = sum of 1 / log2(rank + 1) over ranks 1 .. i + 1; gained = mean gain of each group
    discounted = np.cumsum(1 / np.log2(np.arange(2, max(len(hits), best) + 2)))
    ends = listed.ends(cutoff)
    gained = np.diff(np.cumsum(hits)[ends - 1], prepend=0) / np.diff(ends, prepend=0)
    return float(np.sum(gained * np.diff(discounted[ends - 1], prepend=0)) / discounted[best - 1])


def t2ranking_recall(listed: JudgedRanking, rel: int, cutoff: int) -> RatioTerm:
    """Return one query's hits over its relevant documents; T2Ranking's Recall@k divides their sums over queries.

    Source: ``src/msmarco_eval.py`` of T2Ranking.
    """
    return RatioTerm(float(listed.hits(rel, cutoff).sum()), float(listed.positives(rel)))


def t2ranking_rr(listed: JudgedRanking, rel: int, cutoff: int) -> RatioTerm:
    """Return 1 / rank of one query's first hit over 1; T2Ranking's MRR@k (same source) is their mean over queries."""
    hits = listed.hits(rel, cutoff)
    return RatioTerm(1 / (1 + int(hits.argmax())) if hits.any() else 0.0, 1.0)


_ir: Any = ir_measures  # parts of the library have no type annotations
_PARAMS = {
    "cutoff": _ir.measures.ParamInfo(dtype=int, required=True, desc="ranking cutoff threshold"),
    "rel": _ir.measures.ParamInfo(dtype=int, default=1, desc="lowest grade that counts as relevant"),
}


class BenchmarkMeasure(Measure):
    """A measure as a benchmark defines it, with a cutoff and a lowest relevant grade."""

    SUPPORTED_PARAMS = _PARAMS
    #: The reason why the measure has no per-query values, as a clause; empty if it has per-query values.
    WHOLE_RUN: ClassVar[str] = ""
    #: Formula of the value of one query; for whole-run measures, of its numerator and denominator.
    FORMULA: ClassVar[Callable[[JudgedRanking, int, int], float]]

    def value(self, ranking: JudgedRanking) -> float:
        return type(self).FORMULA(ranking, self["rel"], self["cutoff"])

    def aggregator(self) -> Agg:
        return _RatioOfSums() if self.WHOLE_RUN else super().aggregator()


class _InquireAP(BenchmarkMeasure):
    __name__ = NAME = "INQUIRE_AP"
    PRETTY_NAME = "Average precision of INQUIRE"
    SHORT_DESC = "Sum of the precision at each relevant document, divided by min(R, cutoff)."
    FORMULA = inquire_ap


class _InquireNDCG(BenchmarkMeasure):
    __name__ = NAME = "INQUIRE_nDCG"
    PRETTY_NAME = "nDCG of INQUIRE"
    SHORT_DESC = "nDCG with a gain of 1 for every relevant document; tied documents share their mean gain."
    FORMULA = inquire_ndcg


class _T2RankingR(BenchmarkMeasure):
    __name__ = NAME = "T2Ranking_R"
    PRETTY_NAME = "Recall of T2Ranking (micro)"
    SHORT_DESC = "Fraction of the relevant documents of all judged queries in the run that are within the cutoff."
    WHOLE_RUN = "it is micro-averaged over the documents of all queries"
    FORMULA = t2ranking_recall


class _T2RankingRR(BenchmarkMeasure):
    __name__ = NAME = "T2Ranking_RR"
    PRETTY_NAME = "MRR of T2Ranking"
    SHORT_DESC = "The reciprocal rank of the first relevant document, averaged over the queries of the run."
    WHOLE_RUN = "it is a mean over the queries of the run, judged or not, which differ between runs"
    FORMULA = t2ranking_rr


class _RatioOfSums(Agg):
    """Aggregator for micro-averaged measures; it ignores the values of judged queries missing from the run."""

    def __init__(self) -> None:
        self._terms: list[RatioTerm] = []

    def add(self, value: float) -> None:
        if isinstance(value, RatioTerm):
            self._terms.append(value)

    def result(self) -> float:
        return float(RatioTerm(sum(term.part for term in self._terms), sum(term.whole for term in self._terms)))


#: The measures, with further names of each.
_KINDS: dict[Any, list[str]] = {
    _InquireAP: ["INQUIRE_MAP"],
    _InquireNDCG: [],
    _T2RankingR: ["T2Ranking_Recall"],
    _T2RankingRR: ["T2Ranking_MRR"],
}


class BenchmarkProvider(Provider):
    """ir_measures provider of the benchmark measures. Tied documents keep their order in the run."""

    NAME = "listrank"
    SUPPORTED_MEASURES = [  # noqa: RUF012 - an instance variable of the base class
        kind(cutoff=_ir.providers.base.Any(), rel=_ir.providers.base.Any()) for kind in _KINDS
    ]

    def _evaluator(self, measures: Iterable[Measure], qrels: Any) -> _Evaluator:
        return _Evaluator(list(measures), _ir.util.QrelsConverter(qrels).as_dict_of_dict())


class _Evaluator(Evaluator):
    def __init__(self, measures: Sequence[Measure], qrels: Mapping[str, Mapping[str, int]]) -> None:
        super().__init__(measures, set(qrels))
        self._measures = [measure for measure in measures if isinstance(measure, BenchmarkMeasure)]
        self._qrels = qrels
        self._depth = max(measure["cutoff"] for measure in self._measures)

    def _iter_calc(self, run: Any) -> Iterator[Metric]:
        for query, scored in _ir.util.RunConverter(run).as_dict_of_dict().items():
            judged = self._qrels.get(query, {})
            top = sorted(scored.items(), key=lambda item: -item[1])[: self._depth]  # stable: ties keep input order
            ranking = JudgedRanking(
                grades=np.array([judged.get(doc, 0) for doc, _ in top], dtype=np.int64),
                scores=np.array([score for _, score in top], dtype=np.float64),
                judged=np.array(list(judged.values()), dtype=np.int64),
            )
            for measure in self._measures:
                if query in self._qrels or measure.WHOLE_RUN:
                    yield Metric(query, measure, measure.value(ranking))


_LOCK = threading.Lock()


def register_benchmark_measures() -> None:
    """Register the measures and their provider in ir_measures. Further calls have no effect."""
    with _LOCK:
        if BenchmarkProvider.NAME in _ir.providers.registry:
            return
        for kind, aliases in _KINDS.items():
            _ir.measures.register(kind(), aliases)
        provider: Any = BenchmarkProvider
        _ir.DefaultPipeline.providers.append(_ir.providers.register(provider()))
