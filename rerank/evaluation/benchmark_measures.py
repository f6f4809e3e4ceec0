"""Benchmark-specific measures, implemented as ir_measures measures with their own provider.

A name consists of the benchmark, an underscore and the name of a similar measure in ir_measures: ``INQUIRE_AP@50``.
Importing this module imports ir_measures; `register_benchmark_measures` adds the measures to it.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import ir_measures
import numpy as np
from ir_measures import Evaluator, Measure, Metric, Provider
from ir_measures.measures.base import Agg

from rerank.evaluation import benchmark_formulas as formulas
from rerank.evaluation.benchmark_formulas import JudgedRanking, RatioTerm

Grades = Mapping[str, Mapping[str, int]]

_ir: Any = ir_measures  # parts of the library have no type annotations
_PARAMS = {
    "cutoff": _ir.measures.ParamInfo(dtype=int, required=True, desc="ranking cutoff threshold"),
    "rel": _ir.measures.ParamInfo(dtype=int, default=1, desc="lowest grade that counts as relevant"),
}


class BenchmarkMeasure(Measure, ABC):
    """Base class for measures as a benchmark defines them. They have a cutoff and a lowest relevant grade.

    Attributes:
        WHOLE_RUN: The reason why the measure has no per-query values, as a clause; empty if it has per-query values.
    """

    SUPPORTED_PARAMS = _PARAMS
    WHOLE_RUN: ClassVar[str] = ""

    @abstractmethod
    def value(self, ranking: JudgedRanking) -> float:
        """Compute the measure for one query."""

    def aggregator(self) -> Agg:
        """Return the aggregator over queries: the mean, or a ratio of sums for whole-run measures."""
        return _RatioOfSums() if self.WHOLE_RUN else super().aggregator()


class _InquireAP(BenchmarkMeasure):
    """Average precision of the benchmark INQUIRE (`benchmark_formulas.inquire_ap`)."""

    __name__ = NAME = "INQUIRE_AP"
    PRETTY_NAME = "Average precision of INQUIRE"
    SHORT_DESC = "Sum of the precision at each relevant document, divided by min(R, cutoff)."

    def value(self, ranking: JudgedRanking) -> float:
        """Compute the measure for one query."""
        return formulas.inquire_ap(ranking, self["rel"], self["cutoff"])


class _InquireNDCG(BenchmarkMeasure):
    """nDCG of the benchmark INQUIRE (`benchmark_formulas.inquire_ndcg`)."""

    __name__ = NAME = "INQUIRE_nDCG"
    PRETTY_NAME = "nDCG of INQUIRE"
    SHORT_DESC = "nDCG with a gain of 1 for every relevant document; tied documents share their mean gain."

    def value(self, ranking: JudgedRanking) -> float:
        """Compute the measure for one query."""
        return formulas.inquire_ndcg(ranking, self["rel"], self["cutoff"])


class _T2RankingR(BenchmarkMeasure):
    """Micro-averaged recall of the benchmark T2Ranking (`benchmark_formulas.evaluate_t2ranking_recall`)."""

    __name__ = NAME = "T2Ranking_R"
    PRETTY_NAME = "Recall of T2Ranking (micro)"
    SHORT_DESC = "Fraction of the relevant documents of all judged queries in the run that are within the cutoff."
    WHOLE_RUN = "it is micro-averaged over the documents of all queries"

    def value(self, ranking: JudgedRanking) -> RatioTerm:
        """Return the query's numbers of hits and of relevant documents, which are summed over queries."""
        return formulas.evaluate_t2ranking_recall(ranking, self["rel"], self["cutoff"])


class _T2RankingRR(BenchmarkMeasure):
    """MRR of the benchmark T2Ranking (`benchmark_formulas.t2ranking_rr`)."""

    __name__ = NAME = "T2Ranking_RR"
    PRETTY_NAME = "MRR of T2Ranking"
    SHORT_DESC = "The reciprocal rank of the first relevant document, averaged over the queries of the run."
    WHOLE_RUN = "it is a mean over the queries of the run, judged or not, which differ between runs"

    def value(self, ranking: JudgedRanking) -> RatioTerm:
        """Return the query's reciprocal rank as numerator and 1 as denominator, which are summed over queries."""
        return formulas.t2ranking_rr(ranking, self["rel"], self["cutoff"])


class _RatioOfSums(Agg):
    """Aggregator for micro-averaged measures: it divides the sum of numerators by the sum of denominators.

    Values that are not a `RatioTerm` are ignored: ir_measures adds them for judged queries missing from the run.
    """

    def __init__(self) -> None:
        self._terms: list[RatioTerm] = []

    def add(self, value: float) -> None:
        """Add the numerator and denominator of one query."""
        if isinstance(value, RatioTerm):
            self._terms.append(value)

    def result(self) -> float:
        """Return the sum of numerators divided by the sum of denominators."""
        return float(RatioTerm(sum(term.part for term in self._terms), sum(term.whole for term in self._terms)))


_KINDS: dict[Any, list[str]] = {
    _InquireAP: ["INQUIRE_MAP"],
    _InquireNDCG: [],
    _T2RankingR: ["T2Ranking_Recall"],
    _T2RankingRR: ["T2Ranking_MRR"],
}
_SUPPORTED = [kind(cutoff=_ir.providers.base.Any(), rel=_ir.providers.base.Any()) for kind in _KINDS]


class BenchmarkProvider(Provider):
    """ir_measures provider of the benchmark measures. Tied documents keep their order in the run."""

    NAME = "listrank"
    SUPPORTED_MEASURES = _SUPPORTED

    def _evaluator(self, measures: Iterable[Measure], qrels: Any) -> _Evaluator:
        return _Evaluator(list(measures), _ir.util.QrelsConverter(qrels).as_dict_of_dict())


class _Evaluator(Evaluator):
    def __init__(self, measures: Sequence[Measure], qrels: Grades) -> None:
        super().__init__(measures, set(qrels))
        self._measures = [measure for measure in measures if isinstance(measure, BenchmarkMeasure)]
        self._qrels = qrels
        self._depth = max(measure["cutoff"] for measure in self._measures)

    def _iter_calc(self, run: Any) -> Iterator[Metric]:
        for query, scored in _ir.util.RunConverter(run).as_dict_of_dict().items():
            ranking = self._listed(self._qrels.get(query, {}), scored)
            for measure in self._measures:
                if query in self._qrels or measure.WHOLE_RUN:
                    yield Metric(query, measure, measure.value(ranking))

    def _listed(self, judged: Mapping[str, int], scored: Mapping[str, float]) -> JudgedRanking:
        top = sorted(scored.items(), key=lambda item: -item[1])[: self._depth]  # stable: ties keep input order
        return JudgedRanking(
            grades=np.array([judged.get(doc, 0) for doc, _ in top], dtype=np.int64),
            scores=np.array([score for _, score in top], dtype=np.float64),
            judged=np.array(list(judged.values()), dtype=np.int64),
        )


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
