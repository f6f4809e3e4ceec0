"""Evaluation of runs per query with ir_measures.

Every judged query counts: a judged query for which the run has no documents scores 0. Queries without judgments are
excluded. Both kinds of queries are listed in the scores. Documents are evaluated in the order of the ranking, even if
their scores are tied, and only down to the largest cutoff if all measures have one. The definitions of the measures in
`benchmark_measures` depend on ties and unjudged queries, so only these measures receive the original scores and all
queries of the run.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from rerank.errors import DataError, MissingPrerequisiteError
from rerank.evaluation.measures import parse_measures, why_measure_needs_whole_run
from rerank.evaluation.scores import Scores
from rerank.io.run_files import excluded_documents_of_qrels, qrels_without_excluded_documents
from rerank.types import Qrels, Ranking, Run

if TYPE_CHECKING:
    from ir_measures import Measure

_OF_JUDGMENTS = ("NumQ", "NumRel")
#: The measure that also uses pooled documents without a judgment.
_OF_POOL = "infAP"


def evaluate_run(qrels: Qrels, run: Run, measures: Iterable[str], *, relevant: int = 1) -> Scores:
    """Evaluate one run.

    Args:
        qrels: The relevance judgments; all their queries count.
        run: The run.
        measures: Names of the measures, in a form that `parse_measures` accepts.
        relevant: Lowest grade that counts as relevant in binary measures whose name does not specify one.

    Raises:
        UsageError: The name or a parameter of a measure is wrong.
        DataError: There are no judgments, or none of the run's queries is judged.
        MissingPrerequisiteError: A measure needs a library or program that is not installed.
    """
    return evaluate_runs(qrels, [run], measures, relevant=relevant)[0]


def evaluate_runs(qrels: Qrels, runs: Iterable[Run], measures: Iterable[str], *, relevant: int = 1) -> list[Scores]:
    """Evaluate several runs with the same measures; arguments and errors are those of `evaluate_run`."""
    parsed = parse_measures([measures] if isinstance(measures, str) else measures, relevant=relevant)
    if not qrels:
        raise DataError(f"{qrels.name} contains no judgments", expected="at least one judged query")
    evaluator = _Evaluator(qrels, parsed)
    return [evaluator.scores(run) for run in runs]


#: The largest grade that gdeval accepts.
_MAX_GDEVAL_GRADE = 4


#: Number of queries that are evaluated together; the rankings of no more queries are in memory.
_BLOCK = 5000


class _Evaluator:
    """Evaluator that prepares judgments and measures once and then scores several runs, a block of queries at a time.

    Queries are numbered, because some providers of ir_measures cut query ids at a dash; ids of documents are escaped.
    """

    def __init__(self, qrels: Qrels, measures: Sequence[Measure]) -> None:
        from rerank.evaluation.benchmark_measures import BenchmarkMeasure

        self._qrels = qrels
        self._measures = measures
        _check_grades_of_gdeval(qrels, measures)
        self._queries = {query: str(number) for number, query in enumerate(qrels, 1)}
        self._excluded = excluded_documents_of_qrels(qrels)
        self._counted = {str(m): _compute_judgment_count_measure(m, qrels) for m in measures if m.NAME in _OF_JUDGMENTS}
        own = [m for m in measures if isinstance(m, BenchmarkMeasure)]
        self._own = _ir_evaluator(own, self._graded(qrels.judged())) if own else None
        self._groups = _groups_of_measures([m for m in measures if m not in own])
        self._names = {id(measure): str(measure) for measure in measures}  # printing a measure takes long
        self._blocks = [list(self._queries)[start : start + _BLOCK] for start in range(0, len(qrels), _BLOCK)]
        self._evaluators = functools.lru_cache(maxsize=1)(self._evaluators_of_block)  # runs of one block share them
        self._evaluators(0)  # raise an error now, not at the first run, if a measure cannot be computed

    def _graded(self, qrels: Mapping[str, Mapping[str, int]]) -> dict[str, dict[str, int]]:
        """Return the judgments in the form that ir_measures receives: query number -> escaped document id -> grade."""
        return {self._queries[query]: _qrels_safe_for_pytrec_eval(judged) for query, judged in qrels.items()}

    def _evaluators_of_block(self, index: int) -> list[tuple[Any, int | None]]:
        """Return, for each group of measures, the evaluator of a block of queries and the required depth of runs."""
        qrels = Qrels({query: self._qrels[query] for query in self._blocks[index]})
        graded = self._graded(qrels.judged())
        # ir_measures would count pooled documents without a judgment as judged
        pool = [group for group in self._groups if group[0].NAME == _OF_POOL]
        pooled = self._graded(qrels_without_excluded_documents(qrels)) if pool else {}
        return [
            (_ir_evaluator(group, pooled if group in pool else graded), _depth_of_measures(group))
            for group in self._groups
        ]

    def scores(self, run: Run) -> Scores:
        """Evaluate one run, after removing the documents that the judgments exclude for a query."""
        if self._excluded:
            lists = (ranking.without(*self._excluded.get(query, ())) for query, ranking in run.items())
            run = Run(lists, name=run.name)
        if run and not any(query in self._queries for query in run):
            raise DataError(
                f"Run {run.name!r} (queries {_first_evaluated_query_ids(run)}) shares no query with {self._qrels.name} "
                f"(queries {_first_evaluated_query_ids(self._qrels)})",
                remedy="Use judgments of the same queries",
            )
        values: dict[str, dict[str, float]] = {name: {} for name in self._names.values()}
        missing: list[str] = []
        is_scored = any(len(run[query]) for query in self._queries if query in run)
        for index in range(len(self._blocks)):
            missing += self._score_block(index, run, values, is_scored=is_scored)
        overall = self._measure_own(run, values)
        return Scores(
            run=run.name,
            values={
                name: self._counted.get(name) or values[name] for name in self._names.values() if name not in overall
            },
            overall=overall,
            queries=tuple(self._qrels),
            missing=tuple(missing),
            unjudged=tuple(query for query in run if query not in self._queries),
        )

    def _score_block(self, index: int, run: Run, values: dict[str, dict[str, float]], *, is_scored: bool) -> list[str]:
        """Add the values of a block of queries to ``values``. Return the queries for which the run has no documents.

        Args:
            index: Index of the block.
            run: The run.
            values: The value of each query id, for each measure; updated in place.
            is_scored: Whether the run has a document for any judged query; if not, all values are 0.
        """
        queries = self._blocks[index]
        found = {self._queries[q]: ranking for q in queries if (ranking := run.get(q)) is not None and len(ranking)}
        # scores that keep the order of the documents when they are converted to C floats, for up to 2^24 documents
        by_rank = [-float(rank) for rank in range(max(map(len, found.values()), default=0))]
        block: dict[str, dict[str, float]] = {name: {} for name in values}
        for evaluator, depth in self._evaluators(index) if is_scored else ():
            scored = {key: _scores_by_escaped_id(ranking, by_rank[:depth]) for key, ranking in found.items()}
            for metric in evaluator.iter_calc(scored):
                block[self._names[id(metric.measure)]][metric.query_id] = float(metric.value)
        for name, row in block.items():
            values[name].update((query, row.get(self._queries[query], 0.0)) for query in queries)
        return [query for query in queries if self._queries[query] not in found]

    def _measure_own(self, run: Run, values: dict[str, dict[str, float]]) -> dict[str, float]:
        """Add the per-query values of the benchmark measures to ``values`` and return their whole-run values."""
        if self._own is None:
            return {}
        scored = {
            self._queries.get(query, f"u{n}"): _scores_by_escaped_id(ranking, ranking.written_scores)
            for n, (query, ranking) in enumerate(run.items())
            if len(ranking)
        }
        result = self._own.calc(scored)
        by_number = {number: query for query, number in self._queries.items()}
        for metric in result.per_query:
            if (query := by_number.get(metric.query_id)) is not None:
                values[str(metric.measure)][query] = float(metric.value)
        return {
            str(m): float(result.aggregated[m]) for m in self._measures if why_measure_needs_whole_run(m)
        }  # in the order of the requested measures


def _check_grades_of_gdeval(qrels: Qrels, measures: Sequence[Measure]) -> None:
    """Check that no grade is too large for the program gdeval, which computes ERR and nDCG with exponential gains."""
    affected = [m for m in measures if m.NAME == "ERR" or m.params.get("dcg") == "exp-log2"]
    for query, judged in qrels.items() if affected else ():
        for doc, grade in judged.items():
            if grade > _MAX_GDEVAL_GRADE:
                raise DataError(
                    f"{affected[0]} cannot be computed with grade {grade} of document {doc!r} in query {query!r}",
                    expected=f"grades of at most {_MAX_GDEVAL_GRADE}",
                    remedy="Use nDCG without the parameter dcg, or judgments with lower grades",
                )


def _scores_by_escaped_id(ranking: Ranking, scores: Sequence[float]) -> dict[str, float]:
    """Return the score of each escaped document id. If there are n scores, only the first n documents are included."""
    return dict(zip(_escape_document_ids(ranking.doc_ids[: len(scores)]), scores, strict=False))


def _escape_document_ids(ids: Sequence[str]) -> Sequence[str]:
    """Return ids that all providers of ir_measures can read: printable ASCII without whitespace.

    Almost all ids have this form already. The others are percent-encoded and start with ``%``. Different ids stay
    different.
    """
    if _is_plain("".join(ids)) and all(ids):
        return ids
    return [name if name and _is_plain(name) else f"%{quote(name, safe='', errors='surrogatepass')}" for name in ids]


def _is_plain(text: str) -> bool:
    return text.isascii() and text.isprintable() and " " not in text and "%" not in text


def _qrels_safe_for_pytrec_eval(judged: Mapping[str, int]) -> dict[str, int]:
    """Return a query's judgments with escaped ids, in a form that does not crash pytrec_eval.

    Version 0.5.11 reads invalid memory if all grades of a query are negative. In that case, a document with grade 0 is
    added that no run can contain. The measures do not change: without relevant documents, all of them are 0.
    """
    escaped = dict(zip(_escape_document_ids(list(judged)), judged.values(), strict=True))
    return escaped if max(judged.values(), default=-1) >= 0 else {**escaped, "%%": 0}


def _first_evaluated_query_ids(ids: Iterable[str]) -> str:
    """Return the first three query ids as text for an error message."""
    listed = [repr(name) for _, name in zip(range(4), ids, strict=False)]
    return ", ".join(listed[:3]) + (" ..." if len(listed) > 3 else "")


def _compute_judgment_count_measure(measure: Measure, qrels: Qrels) -> dict[str, float]:
    """Return the value of NumQ or NumRel for each query id. These measures depend on the judgments only.

    trec_eval includes queries that are missing from the run in these counts; ir_measures does not.
    """
    if measure.NAME == "NumQ":
        return dict.fromkeys(qrels, 1.0)
    return {query: float(sum(grade >= measure["rel"] for grade in judged.values())) for query, judged in qrels.items()}


def _groups_of_measures(measures: Sequence[Measure]) -> list[list[Measure]]:
    """Divide measures into groups that ir_measures can compute in one call without wrong values.

    If a measure has the parameter ``gains`` or ``judged_only``, ir_measures 0.4.3 may pass modified judgments to the
    other measures of its group. Each such measure therefore forms its own group, as does infAP, which needs judgments
    of its own.
    """
    selected = [m for m in measures if m.NAME not in _OF_JUDGMENTS]
    alone = [m for m in selected if m.params.keys() & {"gains", "judged_only"} or m.NAME == _OF_POOL]
    together = [m for m in selected if m not in alone]
    return [*([together] if together else []), *([m] for m in alone)]


def _depth_of_measures(measures: Sequence[Measure]) -> int | None:
    """Return how many documents per query the measures depend on: the largest cutoff, or None for all."""
    cutoffs = [m.params["cutoff"] for m in measures if "cutoff" in m.params and not m.params.get("judged_only")]
    return max(cutoffs) if len(cutoffs) == len(measures) else None


def _ir_evaluator(measures: Sequence[Measure], graded: Mapping[str, Mapping[str, int]]) -> Any:
    import ir_measures

    pipeline: Any = ir_measures.DefaultPipeline
    for measure in measures:
        if measure.NAME == "Accuracy" or not pipeline.supports(measure):
            raise MissingPrerequisiteError(
                f"No installed library or program computes {measure} per query",
                remedy="Install cwl-eval (RBP, BPM, SDCG, INST, INSQ, NERR), pyndeval (diversity) or perl (ERR), or "
                "choose another measure",
            )
    return pipeline.evaluator(measures, graded)
