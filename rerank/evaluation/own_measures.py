"""Benchmarks' own measures, declared and provided as ir_measures does it: a class each, one provider for all.

Their names follow one rule: the benchmark, an underscore, and what ir_measures calls the measure that is meant there,
``INQUIRE_AP@50``. Importing this loads ir_measures; `register` makes them known to it. Knows no formula.
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

from rerank.evaluation import formulas
from rerank.evaluation.formulas import Listed, Share

Grades = Mapping[str, Mapping[str, int]]

_ir: Any = ir_measures  # parts of it are not typed
_PARAMS = {
    "cutoff": _ir.measures.ParamInfo(dtype=int, required=True, desc="ranking cutoff threshold"),
    "rel": _ir.measures.ParamInfo(dtype=int, default=1, desc="lowest grade that counts as relevant"),
}


class BenchmarkMeasure(Measure, ABC):
    """One of these measures: a cutoff, and the lowest grade that counts as relevant.

    Attributes:
        WHOLE_RUN: Why there are no values query by query; empty where there are.
    """

    SUPPORTED_PARAMS = _PARAMS
    WHOLE_RUN: ClassVar[str] = ""

    @abstractmethod
    def value(self, listed: Listed) -> float:
        """The measure of one query."""

    def aggregator(self) -> Agg:
        """The mean over queries, or parts over wholes where only the whole run has a value."""
        return _Shares() if self.WHOLE_RUN else super().aggregator()


class _InquireAP(BenchmarkMeasure):
    """See `formulas.inquire_ap`."""

    __name__ = NAME = "INQUIRE_AP"
    PRETTY_NAME = "Average precision of INQUIRE"
    SHORT_DESC = "The precision at relevant documents, summed, over the smaller of the cutoff and their number."

    def value(self, listed: Listed) -> float:
        """Of one query."""
        return formulas.inquire_ap(listed, self["rel"], self["cutoff"])


class _InquireNDCG(BenchmarkMeasure):
    """See `formulas.inquire_ndcg`."""

    __name__ = NAME = "INQUIRE_nDCG"
    PRETTY_NAME = "nDCG of INQUIRE"
    SHORT_DESC = "nDCG with a gain of 1 for every relevant document, equal scores averaged."

    def value(self, listed: Listed) -> float:
        """Of one query."""
        return formulas.inquire_ndcg(listed, self["rel"], self["cutoff"])


class _T2RankingR(BenchmarkMeasure):
    """See `formulas.t2ranking_recall`."""

    __name__ = NAME = "T2Ranking_R"
    PRETTY_NAME = "Recall of T2Ranking (micro)"
    SHORT_DESC = "The share of all relevant documents of the run's judged queries that are found by the cutoff."
    WHOLE_RUN = "it adds up the documents of all queries before it divides"

    def value(self, listed: Listed) -> Share:
        """One query's part."""
        return formulas.t2ranking_recall(listed, self["rel"], self["cutoff"])


class _T2RankingRR(BenchmarkMeasure):
    """See `formulas.t2ranking_rr`."""

    __name__ = NAME = "T2Ranking_RR"
    PRETTY_NAME = "MRR of T2Ranking"
    SHORT_DESC = "The reciprocal rank of the first relevant document, averaged over the queries of the run."
    WHOLE_RUN = "it is a mean over the queries that the run has, judged or not, and these differ from run to run"

    def value(self, listed: Listed) -> Share:
        """One query's part."""
        return formulas.t2ranking_rr(listed, self["rel"], self["cutoff"])


class _Shares(Agg):
    """Parts over wholes. Plain numbers do not count: ir_measures adds them for judged queries that a run lacks."""

    def __init__(self) -> None:
        self._shares: list[Share] = []

    def add(self, value: float) -> None:
        """Take one query's share."""
        if isinstance(value, Share):
            self._shares.append(value)

    def result(self) -> float:
        """The sum of parts over the sum of wholes."""
        return float(Share(sum(share.part for share in self._shares), sum(share.whole for share in self._shares)))


_KINDS: dict[Any, list[str]] = {
    _InquireAP: ["INQUIRE_MAP"],
    _InquireNDCG: [],
    _T2RankingR: ["T2Ranking_Recall"],
    _T2RankingRR: ["T2Ranking_MRR"],
}
_SUPPORTED = [kind(cutoff=_ir.providers.base.Any(), rel=_ir.providers.base.Any()) for kind in _KINDS]


class BenchmarkProvider(Provider):
    """Computes them. Where scores are equal, documents stand in the order in which the run gives them."""

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
            listed = self._listed(self._qrels.get(query, {}), scored)
            for measure in self._measures:
                if query in self._qrels or measure.WHOLE_RUN:
                    yield Metric(query, measure, measure.value(listed))

    def _listed(self, judged: Mapping[str, int], scored: Mapping[str, float]) -> Listed:
        first = sorted(scored.items(), key=lambda item: -item[1])[: self._depth]  # stable: ties stay as given
        return Listed(
            grades=np.array([judged.get(doc, 0) for doc, _ in first], dtype=np.int64),
            scores=np.array([score for _, score in first], dtype=np.float64),
            judged=np.array(list(judged.values()), dtype=np.int64),
        )


_LOCK = threading.Lock()


def register() -> None:
    """Make them known to ir_measures: its names, its providers, its default pipeline. Once, however often called."""
    with _LOCK:
        if BenchmarkProvider.NAME in _ir.providers.registry:
            return
        for kind, aliases in _KINDS.items():
            _ir.measures.register(kind(), aliases)
        provider: Any = BenchmarkProvider
        _ir.DefaultPipeline.providers.append(_ir.providers.register(provider()))
