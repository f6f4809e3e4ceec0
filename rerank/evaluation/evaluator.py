"""Evaluation of runs per query with ir_measures, for all queries or per group, such as a category or a language.

Every judged query counts: a judged query for which the run has no documents scores 0. Queries without judgments are
excluded. The scores list both. Documents are evaluated in the order of the ranking, even if their scores are tied, and
only down to the largest cutoff if all measures have one. The definitions of the measures in `benchmark_measures` depend
on ties and unjudged queries, so only these receive the original scores and all queries of the run.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from rerank.errors import DataError, MissingPrerequisiteError, UsageError, error_repr
from rerank.evaluation.measures import parse_measures, why_measure_needs_whole_run
from rerank.evaluation.scores import Scores
from rerank.io.run_files import excluded_documents_of_qrels, qrels_without_excluded_documents, split_columns
from rerank.io.text_files import open_text_file
from rerank.types import Qrels, Ranking, Run

if TYPE_CHECKING:
    from ir_measures import Measure

_OF_JUDGMENTS = ("NumQ", "NumRel")
#: The measure that also uses pooled documents without a judgment.
_OF_POOL = "infAP"
#: The largest grade that gdeval accepts.
_MAX_GDEVAL_GRADE = 4
#: Number of queries that are evaluated together; the rankings of no more queries are in memory.
_BLOCK = 5000
#: Name of the group for queries without a group.
NO_GROUP = "(none)"


def evaluate_run(qrels: Qrels, run: Run, measures: Iterable[str], *, relevant: int = 1) -> Scores:
    """Evaluate one run on all judged queries.

    ``relevant`` is the lowest relevant grade in binary measures whose name does not specify one (`parse_measures`).

    Raises:
        UsageError: The name or a parameter of a measure is wrong, or an argument has another type.
        DataError: There are no judgments, or none of the run's queries is judged.
        MissingPrerequisiteError: A measure needs a library or program that is not installed.
    """
    return evaluate_runs(qrels, [run], measures, relevant=relevant)[0]


def evaluate_runs(qrels: Qrels, runs: Iterable[Run], measures: Iterable[str], *, relevant: int = 1) -> list[Scores]:
    """Evaluate several runs with the same measures; arguments and errors are those of `evaluate_run`."""
    runs = checked_runs(qrels, runs)
    names = measures if isinstance(measures, Iterable) and not isinstance(measures, str) else [measures]
    parsed = parse_measures(names, relevant=relevant)
    if not qrels:
        raise DataError(f"{qrels.name} contains no judgments", expected="at least one judged query")
    evaluator = _Evaluator(qrels, parsed)
    return [evaluator.scores(run) for run in runs]


def checked_runs(qrels: object, runs: object) -> Iterator[Run]:
    """Check the types of judgments and, when they are read, of runs; a path may be passed instead of its content."""
    if not isinstance(qrels, Qrels):
        raise UsageError(
            f"The judgments are {error_repr(qrels)}", expected="Qrels", remedy="Read a file with read_qrels(path)"
        )
    if isinstance(runs, str | Run) or not isinstance(runs, Iterable):
        raise UsageError(
            f"The runs are {error_repr(runs)}", expected="a list of Run", remedy="Put a single run in a list"
        )
    return (_checked_run(run) for run in runs)


def _checked_run(run: object) -> Run:
    if not isinstance(run, Run):
        raise UsageError(f"A run is {error_repr(run)}", expected="a Run", remedy="Read a file with read_run(path)")
    return run


def evaluate_by_group(
    qrels: Qrels, run: Run, measures: Iterable[str], groups: Mapping[str, str], *, relevant: int = 1
) -> dict[str, Scores]:
    """Evaluate a run on each group of queries separately, also by measures that have only one value per run.

    ``groups`` names the group of each query id; queries without one form the group ``(none)``. The other arguments are
    those of `evaluate_run`. The result is sorted by the name of the group with ``(none)`` last; groups without a judged
    query are omitted. If no judged query has a group, a `DataError` is raised.
    """
    (run,) = checked_runs(qrels, [run])
    judged: dict[str, dict[str, Mapping[str, int]]] = {}
    for query, grades in qrels.items():
        judged.setdefault(groups.get(query) or NO_GROUP, {})[query] = grades
    if not judged.keys() - {NO_GROUP}:
        raise DataError(
            f"None of the {len(qrels)} judged queries of {qrels.name} has a group; queries with a group (at most 3 "
            f"shown): {', '.join(map(repr, list(groups)[:3])) or 'none'}",
            expected="a group for at least one judged query",
        )
    names = list(measures)
    scores_by_group = {}
    for group in sorted(judged, key=lambda name: (name == NO_GROUP, name)):
        rankings = [ranking for query, ranking in run.items() if (groups.get(query) or NO_GROUP) == group]
        shared = any(ranking.query.id in judged[group] for ranking in rankings)
        scores_by_group[group] = evaluate_run(
            Qrels(judged[group], name=f"{qrels.name} ({group})"),
            Run(rankings if shared else (), name=run.name),
            names,
            relevant=relevant,
        )
    return scores_by_group


def read_query_groups(path: str | Path, *, of: str = "query") -> dict[str, str]:
    """Read a file with two columns, query id and group, and return the group of each query id.

    The first whitespace of a line separates the columns, so a group may contain spaces. Empty lines are ignored. ``of``
    is the word for the items in error messages. A `DataError` means a line without a group, or a query in two groups.
    """
    groups: dict[str, str] = {}
    with open_text_file(path) as stream:
        for number, line in enumerate(stream, 1):
            if not (columns := split_columns(line)):
                continue
            query, group = columns[0], line.partition(columns[0])[2].strip()
            if not group:
                raise DataError(f"{path}:{number}: {line.strip()!r} has no group", expected=f"a {of} and its group")
            if groups.setdefault(query, group) != group:
                raise DataError(f"{path}:{number}: {of} {query!r} is in two groups", expected=f"one group per {of}")
    if not groups:
        raise DataError(f"{path} is empty", expected=f"a {of} and its group per line")
    return groups


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
        self._counted = {str(m): _count_judgments(m, qrels) for m in measures if m.NAME in _OF_JUDGMENTS}
        own = [m for m in measures if isinstance(m, BenchmarkMeasure)]
        self._own = _open_pipeline(own, self._graded(qrels.judged())) if own else None
        self._groups = _group_measures([m for m in measures if m not in own])
        self._names = {id(measure): str(measure) for measure in measures}  # printing a measure takes long
        self._blocks = [list(self._queries)[start : start + _BLOCK] for start in range(0, len(qrels), _BLOCK)]
        self._evaluators = functools.lru_cache(maxsize=1)(self._evaluators_of_block)  # runs of one block share them
        self._evaluators(0)  # raise an error now, not at the first run, if a measure cannot be computed

    def _graded(self, qrels: Mapping[str, Mapping[str, int]]) -> dict[str, dict[str, int]]:
        """Return the judgments in the form that ir_measures receives: query number -> escaped document id -> grade.

        pytrec_eval 0.5.11 reads invalid memory if all grades of a query are negative. In that case, a document with
        grade 0 is added that no run can contain. The measures do not change: without relevant documents, all are 0.
        """
        graded = {}
        for query, judged in qrels.items():
            escaped = dict(zip(_escape_document_ids(list(judged)), judged.values(), strict=True))
            graded[self._queries[query]] = escaped if max(judged.values(), default=-1) >= 0 else {**escaped, "%%": 0}
        return graded

    def _evaluators_of_block(self, index: int) -> list[tuple[Any, int | None]]:
        """Return evaluator and required depth of runs (None: all) of a block of queries, per group of measures."""
        qrels = Qrels({query: self._qrels[query] for query in self._blocks[index]})
        graded = self._graded(qrels.judged())
        evaluators = []
        for group in self._groups:
            # ir_measures would count pooled documents without a judgment as judged
            is_pool = group[0].NAME == _OF_POOL
            evaluator = _open_pipeline(
                group, self._graded(qrels_without_excluded_documents(qrels)) if is_pool else graded
            )
            cutoffs = [m.params["cutoff"] for m in group if "cutoff" in m.params and not m.params.get("judged_only")]
            evaluators.append((evaluator, max(cutoffs) if len(cutoffs) == len(group) else None))
        return evaluators

    def scores(self, run: Run) -> Scores:
        """Evaluate one run without the documents that the judgments exclude for a query."""
        if self._excluded:
            lists = (ranking.without(*self._excluded.get(query, ())) for query, ranking in run.items())
            run = Run(lists, name=run.name)
        if run and not any(query in self._queries for query in run):
            raise DataError(
                f"Run {run.name!r} (queries {_first_ids(run)}) shares no query with {self._qrels.name} "
                f"(queries {_first_ids(self._qrels)})",
                remedy="Use judgments of the same queries",
            )
        values: dict[str, dict[str, float]] = {name: {} for name in self._names.values()}
        missing: list[str] = []
        is_scored = any(len(run[query]) for query in self._queries if query in run)  # otherwise all values are 0
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
        """Add the values of a block of queries to ``values``. Return the queries for which the run has no documents."""
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
    """Return the score of each escaped document id, for as many documents as there are scores."""
    return dict(zip(_escape_document_ids(ranking.doc_ids[: len(scores)]), scores, strict=False))


def _escape_document_ids(ids: Sequence[str]) -> Sequence[str]:
    """Return ids as all providers of ir_measures read them: printable ASCII; others are percent-encoded after ``%``."""
    if _is_plain("".join(ids)) and all(ids):
        return ids
    return [name if name and _is_plain(name) else f"%{quote(name, safe='', errors='surrogatepass')}" for name in ids]


def _is_plain(text: str) -> bool:
    return text.isascii() and text.isprintable() and " " not in text and "%" not in text


def _first_ids(ids: Iterable[str]) -> str:
    listed = [repr(name) for _, name in zip(range(4), ids, strict=False)]
    return ", ".join(listed[:3]) + (" ..." if len(listed) > 3 else "")


def _count_judgments(measure: Measure, qrels: Qrels) -> dict[str, float]:
    """Return NumQ or NumRel per query id; unlike ir_measures, trec_eval includes queries missing from the run."""
    if measure.NAME == "NumQ":
        return dict.fromkeys(qrels, 1.0)
    return {query: float(sum(grade >= measure["rel"] for grade in judged.values())) for query, judged in qrels.items()}


def _group_measures(measures: Sequence[Measure]) -> list[list[Measure]]:
    """Divide measures into groups that ir_measures can compute in one call without wrong values.

    If a measure has the parameter ``gains`` or ``judged_only``, ir_measures 0.4.3 may pass modified judgments to the
    other measures of its group. Each such measure is therefore a group, as is infAP, which needs judgments of its own.
    """
    selected = [m for m in measures if m.NAME not in _OF_JUDGMENTS]
    alone = [m for m in selected if m.params.keys() & {"gains", "judged_only"} or m.NAME == _OF_POOL]
    together = [m for m in selected if m not in alone]
    return [*([together] if together else []), *([m] for m in alone)]


def _open_pipeline(measures: Sequence[Measure], graded: Mapping[str, Mapping[str, int]]) -> Any:
    """Return the evaluator of ir_measures for these judgments, which computes the measures of runs.

    A `BenchmarkMeasure` computes its values itself, which ir_measures supports. Accuracy is refused although
    ir_measures states that it is supported: no provider returns its value per query.
    """
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
