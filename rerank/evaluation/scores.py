"""One run measured against judgments, query by query. The measuring is ir_measures'; what counts is decided here.

Every judged query counts: one that the run lacks, or for which it has no document, scores 0, be it all of them.
Queries without judgments do not count. Both are kept by name. The order measured is the ranking's own, ties included.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rerank.errors import DataError, MissingPrerequisiteError
from rerank.evaluation.measures import is_total, parse_measures
from rerank.types import Qrels, Ranking, Run, strictly_decreasing

if TYPE_CHECKING:
    from ir_measures import Measure

_OF_JUDGMENTS = ("NumQ", "NumRel")


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """The per-query values of one run.

    Guarantees: every measure has a finite value for every judged query, in the order of the judgments.

    Attributes:
        run: The run's name.
        values: Measure (as ir_measures prints it, in the order asked) -> query id -> value.
        missing: Judged queries for which the run has no document; they score 0.
        unjudged: Queries of the run without judgments; they are left out.
    """

    run: str
    values: Mapping[str, Mapping[str, float]]
    missing: tuple[str, ...] = ()
    unjudged: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check the invariants."""
        queries = next(iter(self.values.values()), {}).keys()
        for measure, row in self.values.items():
            if not row or row.keys() != queries:
                raise DataError(f"{measure} of run {self.run!r} covers other queries than the first measure, or none")
            for query, value in row.items():
                if not math.isfinite(value):
                    raise DataError(f"{measure} of run {self.run!r} is {value} for query {query!r}")

    @property
    def measures(self) -> tuple[str, ...]:
        """The measures' names, in the order asked."""
        return tuple(self.values)

    @property
    def queries(self) -> tuple[str, ...]:
        """The judged queries."""
        return tuple(next(iter(self.values.values()), {}))

    def mean(self, measure: str) -> float:
        """The arithmetic mean over all judged queries, missing ones included.

        Raises:
            KeyError: The measure was not asked for.
        """
        row = self.values[measure]
        return math.fsum(row.values()) / len(row)

    def summary(self) -> dict[str, float]:
        """Measure -> its mean; for the counts (NumQ, NumRel, NumRet) the total, as trec_eval prints them."""
        return {
            name: math.fsum(row.values()) if is_total(name) else self.mean(name) for name, row in self.values.items()
        }

    def by_query(self) -> dict[str, dict[str, float]]:
        """The same values turned around: query id -> measure -> value."""
        return {query: {name: row[query] for name, row in self.values.items()} for query in self.queries}


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


def evaluation_report(
    qrels_name: str, scores: Iterable[tuple[str, Scores]], *, per_query: bool = False
) -> dict[str, Any]:
    """What ``rerank eval --format json`` prints.

    Args:
        qrels_name: The judgments, as the user named them.
        scores: The runs as the user named them, with their scores.
        per_query: Whether to add every query's values, as query -> measure -> value.

    Returns:
        ``qrels`` and ``runs``; a run has ``run``, ``queries`` (judged ones), ``missing`` and ``unjudged`` (how many)
        and ``scores``.
    """
    runs = []
    for name, entry in scores:
        row: dict[str, Any] = {
            "run": name,
            "queries": len(entry.queries),
            "missing": len(entry.missing),
            "unjudged": len(entry.unjudged),
            "scores": entry.summary(),
        }
        runs.append({**row, "per_query": entry.by_query()} if per_query else row)
    return {"qrels": qrels_name, "runs": runs}


class _Evaluator:
    """Judgments and measures, made ready once for many runs.

    ir_measures sees stand-ins for all ids, as some of its parts cut query ids at a dash or split them at white space.
    """

    def __init__(self, qrels: Qrels, measures: Sequence[Measure]) -> None:
        self._qrels = qrels
        self._measures = measures
        self._queries = {query: str(number) for number, query in enumerate(qrels, 1)}
        self._docs = {query: {doc: f"d{n}" for n, doc in enumerate(judged)} for query, judged in qrels.items()}
        graded = {
            self._queries[query]: _safe({self._docs[query][doc]: grade for doc, grade in judged.items()})
            for query, judged in qrels.items()
        }
        self._counted = {str(m): _count_judgments(m, qrels) for m in measures if m.NAME in _OF_JUDGMENTS}
        self._parts = [_ir_evaluator(group, graded) for group in _groups(measures)]

    def scores(self, run: Run) -> Scores:
        if run and not any(query in self._queries for query in run):
            raise DataError(
                f"Run {run.name!r} (queries {_first(run)}) shares no query with {self._qrels.name} "
                f"(queries {_first(self._qrels)})",
                remedy="Take judgments of the same queries",
            )
        given = {
            self._queries[query]: self._scored(ranking)
            for query, ranking in run.items()
            if len(ranking) and query in self._queries
        }
        found: dict[tuple[str, str], float] = {}
        for part in self._parts if given else ():
            for metric in part.iter_calc(given):
                found[str(metric.measure), metric.query_id] = float(metric.value)
        return Scores(
            run=run.name,
            values={
                name: self._counted.get(name)
                or {query: found.get((name, key), 0.0) for query, key in self._queries.items()}
                for name in map(str, self._measures)
            },
            missing=tuple(query for query, key in self._queries.items() if key not in given),
            unjudged=tuple(query for query in run if query not in self._queries),
        )

    def _scored(self, ranking: Ranking) -> dict[str, float]:
        known = self._docs[ranking.query.id]
        scores = strictly_decreasing(ranking.scores)  # so that our order is also that of C floats
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
