"""Labelling of first-stage candidates by one or several teachers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from rerank.errors import DataError, UsageError
from rerank.experiment import PreparedRun, execute_run, prepare_run
from rerank.experiment.candidates import load_queries, retrieve_lists
from rerank.experiment.estimate import estimate_run_cost
from rerank.experiment.prepare import spec_with_trained_defaults
from rerank.experiment.spec import Execution, RunSpec
from rerank.finetune.labels.label_fusion import LabelFusion, check_teacher_names, missing_teacher_scores_error
from rerank.finetune.labels.label_list import LabelList
from rerank.finetune.labels.teachers import LabellingTask, Teacher, TeacherRanking, open_teacher
from rerank.types import Ranking

#: Maximum number of failed lists that a report names; the report counts all failed lists.
NAMED = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class LabellingPlan:
    """The teachers that label lists, and the rules by which labelled lists are kept.

    Attributes:
        teachers: Selectors of the teachers; the rankings of several teachers are fused.
        fusion: Fusion method.
        keep_failed: Whether to keep lists for which the teacher failed; otherwise these lists are skipped.
        min_docs: Minimum number of documents per list; shorter lists are skipped.
    """

    teachers: tuple[str, ...] = ("method",)
    fusion: LabelFusion = field(default_factory=LabelFusion)
    keep_failed: bool = False
    min_docs: int = 2

    def __post_init__(self) -> None:
        """Check the names of the teachers, the fusion weights and ``min_docs``."""
        if not self.teachers or self.min_docs < 1:
            raise UsageError(
                f"There are {len(self.teachers)} teachers, and --min-docs is {self.min_docs}",
                expected="at least 1 teacher, and --min-docs of at least 1",
            )
        check_teacher_names(self.teachers)
        self.fusion.check(len(self.teachers))


@dataclass(frozen=True, slots=True, kw_only=True)
class LabellingResult:
    """Labelled lists, and a report about the labelling.

    Attributes:
        labels: The labelled lists.
        report: ``queries`` (number of queries), ``written`` (number of labelled lists), ``left_out`` (number of lists
            without a label, by reason), ``failed`` (the first `NAMED` failed lists with their reasons),
            ``failed_lists`` (number of all failed lists), ``silent`` (number of candidates that no teacher ranked) and
            ``teachers`` (report of each teacher, by name).
    """

    labels: tuple[LabelList, ...]
    report: dict[str, Any]

    def check(self) -> None:
        """Check that at least one list is labelled."""
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
    """A labelling task with its opened teachers, ready for `make_labels`.

    Attributes:
        task: The lists to label.
        teachers: Mapping from the selector of each teacher to the teacher.
        plan: Teachers, fusion method and rules.
    """

    task: LabellingTask
    teachers: Mapping[str, Teacher]
    plan: LabellingPlan

    def estimate(self) -> dict[str, Any]:
        """Estimate the cost of the teacher `method`; if it is not used, all values except ``queries`` are 0.

        Returns:
            ``queries``, ``calls``, ``tokens_in``, ``tokens_out`` and ``cost``, as in `estimate_run_cost`.
        """
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

    Args:
        spec: Specification of the lists (collection, first stage, depth and queries), and of the method and model of
            the teacher `method`.
        execution: Execution options for the run of the teacher `method`.
        plan: Teachers, fusion method and rules.
        run: Function that executes a run, for example with a progress bar.
    """
    spec = spec_with_trained_defaults(spec)
    opened = {name: open_teacher(name) for name in plan.teachers}
    for name, teacher in opened.items():
        if len(opened) > 1 and plan.fusion.how != "rrf" and not teacher.scored(spec):
            raise missing_teacher_scores_error(plan.fusion.how, name)
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
    outputs = {name: teacher.label(job.task) for name, teacher in job.teachers.items()}
    reports = {_teacher_title(name, job.task.spec): dict(report) for name, (_, report) in outputs.items()}
    labels: list[LabelList] = []
    left_out: Counter[str] = Counter()
    failed: list[dict[str, str]] = []
    unranked = 0
    for query, ranking in job.task.candidates.items():
        if len(ranking) < job.plan.min_docs:
            left_out["too few candidates"] += 1
            continue
        fused = _fuse_teacher_rankings(job, ranking, {name: rankings[query] for name, (rankings, _) in outputs.items()})
        if fused.failed:
            failed.append({"query": query, "why": fused.failed})
            if not job.plan.keep_failed:
                left_out[fused.failed] += 1
                continue
        unranked += len(fused.unranked)
        labels.append(_label_of_teacher_ranking(ranking, fused, " + ".join(reports)))
    report = {
        "queries": len(job.task.candidates),
        "written": len(labels),
        "left_out": dict(left_out),
        "failed": failed[:NAMED],
        "failed_lists": len(failed),
        "silent": unranked,
        "teachers": reports,
    }
    return LabellingResult(labels=tuple(labels), report=report)


def _fuse_teacher_rankings(
    job: LabellingJob, candidates: Ranking, rankings: Mapping[str, TeacherRanking]
) -> TeacherRanking:
    if len(rankings) == 1:
        return next(iter(rankings.values()))
    return job.plan.fusion.join(candidates, rankings)


def _label_of_teacher_ranking(candidates: Ranking, ranking: TeacherRanking, teacher: str) -> LabelList:
    has_all_scores = all(doc_id in ranking.scores for doc_id in candidates.doc_ids)
    return LabelList(
        qid=candidates.query.id,
        initial=candidates.doc_ids,
        final=ranking.order,
        query=candidates.query.text,
        scores=tuple(ranking.scores[doc_id] for doc_id in candidates.doc_ids) if has_all_scores else (),
        teacher=teacher,
    )


def _teacher_title(name: str, spec: RunSpec) -> str:
    """Return the name of a teacher in label files: its selector, or method and model for the teacher `method`."""
    return f"{spec.method} {spec.model}" if name == "method" else name
