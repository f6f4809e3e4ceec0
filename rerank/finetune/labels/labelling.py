"""Labelling of first-stage candidates by one or several teachers, whose rankings are fused."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from rerank.errors import DataError, UnknownNameError, UsageError, ensure
from rerank.experiment import PreparedRun, execute_run, prepare_run
from rerank.experiment.candidates import load_queries, retrieve_lists
from rerank.experiment.estimate import estimate_run_cost
from rerank.experiment.prepare import spec_with_trained_defaults
from rerank.experiment.spec import Execution, RunSpec
from rerank.finetune.labels.lists import LabelList
from rerank.finetune.labels.teachers import LabellingTask, Teacher, TeacherRanking, open_teacher
from rerank.retrieval.hybrid import (
    FusionValues,
    min_max_fusion,
    parse_weights,
    reciprocal_rank_fusion,
    weighted_fusion_sum,
    z_score_fusion,
)
from rerank.types import Document, Ranking

FUSION_METHODS = ("rrf", "z-score", "min-max")
_BY_SCORE: Mapping[str, Callable[[Ranking], FusionValues]] = {"z-score": z_score_fusion, "min-max": min_max_fusion}
#: Maximum number of failed lists that a report names; the report counts all failed lists.
NAMED = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class LabellingPlan:
    """The teachers that label lists, how their rankings are fused into one label, and which lists are kept.

    Lists with fewer than ``min_docs`` documents are skipped, as are lists for which a teacher failed, unless
    ``keep_failed`` is set.
    """

    teachers: tuple[str, ...] = ("method",)  #: Selectors; the rankings of several teachers are fused.
    #: ``rrf`` sums 1 / (60 + rank among the candidates) over teachers (Cormack et al., SIGIR 2009); ``z-score`` and
    #: ``min-max`` sum the scores of the teachers, normalised over the candidates.
    fuse: str = "rrf"
    weights: str = ""  #: One number per teacher, separated by ``+``, such as ``0.3+0.7``; all weights are 1 if empty.
    keep_failed: bool = False
    min_docs: int = 2

    def __post_init__(self) -> None:
        if self.fuse not in FUSION_METHODS:
            raise UnknownNameError("fusion method", self.fuse, FUSION_METHODS)
        count = len(self.teachers)
        ensure(
            count and self.min_docs >= 1,
            f"There are {count} teachers, and --min-docs is {self.min_docs}",
            expected="at least 1 teacher, and --min-docs of at least 1",
        )
        if repeated := [name for name, times in Counter(self.teachers).items() if times > 1]:
            raise UsageError(
                f"--teacher {repeated[0]} is given twice",
                expected="each teacher once",
                remedy="To give it more weight, use --weights",
            )

        try:
            parse_weights(self.weights, count)
        except UsageError as error:
            raise UsageError(
                f"--weights is {self.weights!r}, but there are {count} teachers",
                expected=f"{count} nonnegative numbers, not all 0, such as {'+'.join(['0.5'] * count)}",
            ) from error

    def fuse_rankings(self, candidates: Ranking, rankings: Mapping[str, TeacherRanking]) -> TeacherRanking:
        """Fuse the rankings of several teachers into one ranking by fused score; ties keep the first-stage order.

        The value of a candidate that a teacher does not rank is 0 (``rrf``, ``min-max``) or the teacher's lowest value
        (``z-score``). Candidates that no teacher ranks come last. If a teacher failed, the fused ranking failed too.
        """
        weights = parse_weights(self.weights, len(rankings))
        if failed := "; ".join(f"{name}: {ranking.failed}" for name, ranking in rankings.items() if ranking.failed):
            return TeacherRanking(order=next(iter(rankings.values())).order, failed=failed)
        values = [self._values(candidates, name, ranking) for name, ranking in rankings.items()]
        sums = weighted_fusion_sum(values, weights)
        unranked = frozenset.intersection(*(ranking.unranked for ranking in rankings.values()))
        ranked = [doc_id for doc_id in candidates.doc_ids if doc_id not in unranked]
        ordered = sorted(ranked, key=lambda doc_id: -sums[doc_id])
        last = [doc_id for doc_id in candidates.doc_ids if doc_id in unranked]
        scores = {doc_id: sums[doc_id] for doc_id in ranked}
        return TeacherRanking(order=(*ordered, *last), scores=scores, unranked=unranked)

    def _values(self, candidates: Ranking, name: str, ranking: TeacherRanking) -> FusionValues:
        docs = [Document(id=doc_id) for doc_id in ranking.order if doc_id not in ranking.unranked]
        if self.fuse == "rrf":
            return reciprocal_rank_fusion(Ranking.from_order(candidates.query, docs))
        if not ranking.scores and docs:
            raise self.no_scores(name)
        scored = Ranking(candidates.query, tuple(docs), tuple(ranking.scores[doc.id] for doc in docs))
        return _BY_SCORE[self.fuse](scored)

    def no_scores(self, teacher: str) -> UsageError:
        return UsageError(
            f"--fuse {self.fuse} cannot be used with the teacher {teacher!r}, which returns a ranking without scores",
            expected="teachers with scores, or --fuse rrf, which needs only ranks",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class LabellingResult:
    """Labelled lists, and a report about the labelling."""

    labels: tuple[LabelList, ...]
    #: Numbers of ``queries``, of ``written`` labels, of lists ``left_out`` by reason, of ``failed_lists``, and of
    #: candidates that no teacher ranked (``silent``); the first `NAMED` failures (``failed``); the report of each
    #: teacher by name (``teachers``).
    report: dict[str, Any]

    def check(self) -> None:
        if self.labels:
            return
        first = "; ".join(f"query {failure['query']}: {failure['why']}" for failure in self.report["failed"][:3])
        counts = ", ".join(f"{count}: {reason}" for reason, count in self.report["left_out"].items())
        raise DataError(
            f"None of the {self.report['queries']} lists has a label ({counts or 'no queries'}). {first}".strip(),
            remedy="Use another teacher or first stage, or --keep-failed",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class LabellingJob:
    """A labelling task with its opened teachers, by selector, ready for `make_labels`."""

    task: LabellingTask
    teachers: Mapping[str, Teacher]
    plan: LabellingPlan

    def estimate(self) -> dict[str, Any]:
        """Estimate the cost of the teacher `method` as in `estimate_run_cost`; it is 0 if that teacher is not used."""
        if self.task.prepared is not None:
            return estimate_run_cost(self.task.prepared)
        return {"queries": len(self.task.candidates), "calls": 0, "tokens_in": 0, "tokens_out": 0, "cost": 0.0}


def prepare_labelling(
    spec: RunSpec,
    execution: Execution,
    plan: LabellingPlan,
    *,
    run: Callable[[PreparedRun, Execution], dict[str, Any]] = execute_run,
) -> LabellingJob:
    """Open collection, candidates and teachers, and perform all checks that are possible before labelling.

    The method and model of ``spec``, ``execution`` and ``run``, which may show a progress bar, are for the teacher
    `method`.
    """
    spec = spec_with_trained_defaults(spec)
    opened = {name: open_teacher(name) for name in plan.teachers}
    for name, teacher in opened.items():
        if len(opened) > 1 and plan.fuse != "rrf" and not teacher.scored(spec):
            raise plan.no_scores(name)
    judged_only = any(teacher.judged_only for teacher in opened.values())
    prepared = None
    if any(teacher.runs for teacher in opened.values()):
        prepared = prepare_run(spec, execution, judged_only=judged_only)
        collection, candidates, qrels = prepared.collection, prepared.first_stage, prepared.qrels
    else:
        collection, queries, qrels = load_queries(spec, judged_only=judged_only)
        candidates = retrieve_lists(spec, collection, queries)
    task = LabellingTask(
        spec=spec,
        execution=execution,
        collection=collection,
        candidates=candidates,
        qrels=qrels,
        prepared=prepared,
        execute=run,
    )
    return LabellingJob(task=task, teachers=opened, plan=plan)


def make_labels(job: LabellingJob) -> LabellingResult:
    """Rank the candidates with the teachers and return labelled lists; without any, `LabellingResult.check` raises."""
    task, plan = job.task, job.plan
    outputs = {name: teacher.label(task) for name, teacher in job.teachers.items()}
    # In label files, the teacher `method` is named by its method and model.
    titles = {name: f"{task.spec.method} {task.spec.model}" if name == "method" else name for name in outputs}
    labels: list[LabelList] = []
    left_out: Counter[str] = Counter()
    failed: list[dict[str, str]] = []
    unranked = 0
    for query, candidates in task.candidates.items():
        if len(candidates) < plan.min_docs:
            left_out["too few candidates"] += 1
            continue
        rankings = {name: by_query[query] for name, (by_query, _) in outputs.items()}
        ranking = plan.fuse_rankings(candidates, rankings) if len(rankings) > 1 else next(iter(rankings.values()))
        if ranking.failed:
            failed.append({"query": query, "why": ranking.failed})
            if not plan.keep_failed:
                left_out[ranking.failed] += 1
                continue
        unranked += len(ranking.unranked)
        has_all_scores = all(doc_id in ranking.scores for doc_id in candidates.doc_ids)
        labels.append(
            LabelList(
                qid=candidates.query.id,
                initial=candidates.doc_ids,
                final=ranking.order,
                query=candidates.query.text,
                scores=tuple(ranking.scores[doc_id] for doc_id in candidates.doc_ids) if has_all_scores else (),
                teacher=" + ".join(titles.values()),
            )
        )
    report = {
        "queries": len(task.candidates),
        "written": len(labels),
        "left_out": dict(left_out),
        "failed": failed[:NAMED],
        "failed_lists": len(failed),
        "silent": unranked,
        "teachers": {titles[name]: dict(report) for name, (_, report) in outputs.items()},
    }
    return LabellingResult(labels=tuple(labels), report=report)
