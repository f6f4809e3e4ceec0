"""Runs measured against judgments, query by query. The measuring is ir_measures'; what counts is decided here.

Every judged query counts: one that the run lacks, or for which it has no document, scores 0, be it all of them.
Queries without judgments do not count. Both are kept by name. The order measured is the ranking's own, ties included.
The measures of `own_measures` are told ties and queries without judgments too, since both are in their definitions.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rerank.errors import DataError, MissingPrerequisiteError
from rerank.evaluation.measures import parse_measures, whole_run
from rerank.evaluation.scores import Scores
from rerank.types import Qrels, Ranking, Run, strictly_decreasing

if TYPE_CHECKING:
    from ir_measures import Measure

_OF_JUDGMENTS = ("NumQ", "NumRel")


def evaluate(qrels: Qrels, run: Run, measures: Iterable[str], *, relevant: int = 1) -> Scores:
    """Measure one run.

    Args:
        qrels: The judgments; all their queries count.
        run: The rankings.
        measures: Names, see `parse_measures`.
        relevant: The lowest grade that binary measures count as relevant where their name gives none.

    Raises:
        UsageError: A measure's name or parameters are wrong.
        DataError: There are no judgments, or the run has queries and none of them is judged.
        MissingPrerequisiteError: A measure is known and needs a library or program that is not installed.
    """
    return evaluate_all(qrels, [run], measures, relevant=relevant)[0]


def evaluate_all(qrels: Qrels, runs: Iterable[Run], measures: Iterable[str], *, relevant: int = 1) -> list[Scores]:
    """Measure several runs with the same measures; see `evaluate`."""
    parsed = parse_measures([measures] if isinstance(measures, str) else measures, relevant=relevant)
    if not qrels:
        raise DataError(f"{qrels.name} holds no judgments", expected="at least one judged query")
    evaluator = _Evaluator(qrels, parsed)
    return [evaluator.scores(run) for run in runs]


class _Evaluator:
    """Judgments and measures, made ready once for many runs.

    ir_measures sees stand-ins for all ids, as some of its parts cut query ids at a dash or split them at white space.
    """

    def __init__(self, qrels: Qrels, measures: Sequence[Measure]) -> None:
        from rerank.evaluation.own_measures import BenchmarkMeasure

        self._qrels = qrels
        self._measures = measures
        self._queries = {query: str(number) for number, query in enumerate(qrels, 1)}
        self._docs = {query: {doc: f"d{n}" for n, doc in enumerate(judged)} for query, judged in qrels.items()}
        graded = {
            self._queries[query]: _safe({self._docs[query][doc]: grade for doc, grade in judged.items()})
            for query, judged in qrels.items()
        }
        self._counted = {str(m): _count_judgments(m, qrels) for m in measures if m.NAME in _OF_JUDGMENTS}
        own = [m for m in measures if isinstance(m, BenchmarkMeasure)]
        self._own = _ir_evaluator(own, graded) if own else None
        self._parts = [_ir_evaluator(group, graded) for group in _groups([m for m in measures if m not in own])]

    def scores(self, run: Run) -> Scores:
        if run and not any(query in self._queries for query in run):
            raise DataError(
                f"Run {run.name!r} (queries {_first(run)}) shares no query with {self._qrels.name} "
                f"(queries {_first(self._qrels)})",
                remedy="Take judgments of the same queries",
            )
        given = {
            self._queries[query]: self._scored(ranking, strictly_decreasing(ranking.scores))
            for query, ranking in run.items()
            if len(ranking) and query in self._queries
        }  # falls strictly, so that our order is also that of C floats
        found: dict[tuple[str, str], float] = {}
        for part in self._parts if given else ():
            for metric in part.iter_calc(given):
                found[str(metric.measure), metric.query_id] = float(metric.value)
        overall = self._measure_own(run, found)
        return Scores(
            run=run.name,
            values={
                name: self._counted.get(name)
                or {query: found.get((name, key), 0.0) for query, key in self._queries.items()}
                for name in map(str, self._measures)
                if name not in overall
            },
            overall=overall,
            queries=tuple(self._qrels),
            missing=tuple(query for query, key in self._queries.items() if key not in given),
            unjudged=tuple(query for query in run if query not in self._queries),
        )

    def _measure_own(self, run: Run, found: dict[tuple[str, str], float]) -> dict[str, float]:
        """Put the values of our own measures to the others; return those of the whole run."""
        if self._own is None:
            return {}
        whole = {
            self._queries.get(query, f"u{n}"): self._scored(ranking, ranking.scores)
            for n, (query, ranking) in enumerate(run.items())
            if len(ranking)
        }
        result = self._own.calc(whole)
        for metric in result.per_query:
            found[str(metric.measure), metric.query_id] = float(metric.value)
        return {str(m): float(result.aggregated[m]) for m in self._measures if whole_run(m)}  # in the order asked

    def _scored(self, ranking: Ranking, scores: Sequence[float]) -> dict[str, float]:
        known = self._docs.get(ranking.query.id, {})
        return {known.get(doc.id, f"u{n}"): scores[n] for n, doc in enumerate(ranking.docs)}


def _safe(judged: dict[str, int]) -> dict[str, int]:
    """The judgments of a query, such that pytrec_eval survives them.

    Version 0.5.11 reads foreign memory where a query has no grade of 0 or more. A document with grade 0 that no run
    can hold changes no measure: without a relevant document all of them are 0.
    """
    return judged if max(judged.values(), default=-1) >= 0 else {**judged, "none": 0}


def _first(ids: Iterable[str]) -> str:
    listed = [repr(name) for _, name in zip(range(4), ids, strict=False)]
    return ", ".join(listed[:3]) + (" ..." if len(listed) > 3 else "")


def _count_judgments(measure: Measure, qrels: Qrels) -> dict[str, float]:
    """NumQ and NumRel, which no run changes; trec_eval counts them for missing queries too, ir_measures does not."""
    if measure.NAME == "NumQ":
        return dict.fromkeys(qrels, 1.0)
    return {query: float(sum(grade >= measure["rel"] for grade in judged.values())) for query, judged in qrels.items()}


def _groups(measures: Sequence[Measure]) -> list[list[Measure]]:
    """Which measures ir_measures may compute together.

    Where gains or judged_only change what the others see, ir_measures 0.4.3 may hand a plain measure the changed
    judgments, so these stand alone.
    """
    wanted = [m for m in measures if m.NAME not in _OF_JUDGMENTS]
    alone = [[m] for m in wanted if m.params.keys() & {"gains", "judged_only"}]
    together = [m for m in wanted if not m.params.keys() & {"gains", "judged_only"}]
    return [*([together] if together else []), *alone]


def _ir_evaluator(measures: Sequence[Measure], graded: Mapping[str, Mapping[str, int]]) -> Any:
    import ir_measures

    pipeline: Any = ir_measures.DefaultPipeline
    for measure in measures:
        if measure.NAME == "Accuracy" or not pipeline.supports(measure):
            raise MissingPrerequisiteError(
                f"Nothing that is installed computes {measure} for every query",
                remedy="Install cwl-eval (RBP, BPM, SDCG, INST, INSQ, NERR), pyndeval (diversity) or perl (ERR), or "
                "ask for another measure",
            )
    return pipeline.evaluator(measures, graded)
