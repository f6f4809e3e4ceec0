"""From a specification and its teachers to labels: candidates, opinions, lists, and a count of what was left out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from rerank.errors import DataError, UsageError
from rerank.experiment import Prepared, execute, prepare
from rerank.experiment.candidates import load, retrieve
from rerank.experiment.estimate import estimate
from rerank.experiment.spec import Execution, RunSpec
from rerank.finetune.labels.fusing import Fusion, check_names, no_scores
from rerank.finetune.labels.lists import LabelList
from rerank.finetune.labels.teachers import Opinion, Task, Teacher, open_teacher
from rerank.types import Ranking

#: Reasons that a report names; the rest is counted.
NAMED = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Who labels, and what becomes a list.

    Attributes:
        teachers: Selectors of teachers; several are fused.
        fusion: How.
        keep_failed: Whether lists stay whose teacher failed.
        min_docs: Lists of fewer documents teach nothing and are left out.

    Raises:
        UsageError: No teacher, one twice, ``min_docs`` below 1, or weights that do not fit.
    """

    teachers: tuple[str, ...] = ("method",)
    fusion: Fusion = field(default_factory=Fusion)
    keep_failed: bool = False
    min_docs: int = 2

    def __post_init__(self) -> None:
        """Check what can be checked without data."""
        if not self.teachers or self.min_docs < 1:
            raise UsageError(
                f"{len(self.teachers)} teachers, lists from {self.min_docs} documents up", expected="at least 1 of each"
            )
        check_names(self.teachers)
        self.fusion.check(len(self.teachers))


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """Labels and how they came about.

    Attributes:
        labels: The lists.
        report: ``queries``, ``written``, ``left_out`` (reason -> lists), ``failed`` (the first of them by name, with
            their reasons), ``silent`` (candidates that no teacher spoke about) and ``teachers`` (what each tells).
    """

    labels: tuple[LabelList, ...]
    report: dict[str, Any]

    def check(self) -> None:
        """See that a list is left.

        Raises:
            DataError: None is; the message says why.
        """
        if self.labels:
            return
        first = "; ".join(f"query {one['query']}: {one['why']}" for one in self.report["failed"][:3])
        counts = ", ".join(f"{count}: {reason}" for reason, count in self.report["left_out"].items())
        raise DataError(
            f"None of the {self.report['queries']} lists has a label ({counts or 'no queries'}). {first}".strip(),
            remedy="Take another teacher or first stage, or --keep-failed",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """A task with its teachers, before the first call.

    Attributes:
        task: What is labelled.
        teachers: Selector -> teacher.
        plan: What was planned.
    """

    task: Task
    teachers: Mapping[str, Teacher]
    plan: Plan

    def estimate(self) -> dict[str, Any]:
        """What the run of a method would take: ``queries``, ``calls``, ``tokens_in``, ``tokens_out``, ``cost``."""
        if self.task.prepared is not None:
            return estimate(self.task.prepared)
        return {"queries": len(self.task.candidates), "calls": 0, "tokens_in": 0, "tokens_out": 0, "cost": 0.0}


def get_ready(
    spec: RunSpec,
    execution: Execution,
    plan: Plan,
    *,
    run: Callable[[Prepared, Execution], dict[str, Any]] = execute,
) -> Ready:
    """Open collection, candidates and teachers, and check all that can be checked; labels nothing.

    Args:
        spec: Collection, first stage, depth, queries; method and model for the teacher ``method``.
        execution: How.
        plan: Who labels.
        run: Who executes a run, e.g. with a progress bar.

    Raises:
        RerankError: Whatever stands in the way.
    """
    opened = {name: open_teacher(name) for name in plan.teachers}
    for name, teacher in opened.items():
        if len(opened) > 1 and plan.fusion.how != "rrf" and not teacher.scored(spec):
            raise no_scores(plan.fusion.how, name)
    judged_only = any(teacher.judged_only for teacher in opened.values())
    prepared = None
    if any(teacher.runs for teacher in opened.values()):
        prepared = prepare(spec, execution, judged_only=judged_only)
        collection, candidates, qrels = prepared.collection, prepared.first_stage, prepared.qrels
    else:
        collection, queries, qrels = load(spec, judged_only=judged_only)
        candidates = retrieve(spec, collection, queries)
    task = Task(
        spec=spec,
        execution=execution,
        collection=collection,
        candidates=candidates,
        qrels=qrels,
        prepared=prepared,
        execute=run,
    )
    return Ready(task=task, teachers=opened, plan=plan)


def make_labels(ready: Ready) -> Made:
    """Let the teachers label, and make lists of what they say; there may be none, see `Made.check`.

    Raises:
        RerankError: What a teacher raises; committed calls are kept.
    """
    heard = {name: teacher.label(ready.task) for name, teacher in ready.teachers.items()}
    told = {_title(name, ready.task.spec): dict(more) for name, (_, more) in heard.items()}
    labels: list[LabelList] = []
    left_out: Counter[str] = Counter()
    failed: list[dict[str, str]] = []
    silent = 0
    for query, ranking in ready.task.candidates.items():
        if len(ranking) < ready.plan.min_docs:
            left_out["too few candidates"] += 1
            continue
        opinion = _joined(ready, ranking, {name: opinions[query] for name, (opinions, _) in heard.items()})
        if opinion.failed:
            failed.append({"query": query, "why": opinion.failed})
            if not ready.plan.keep_failed:
                left_out[opinion.failed] += 1
                continue
        silent += len(opinion.silent)
        labels.append(_label(ranking, opinion, " + ".join(told)))
    report = {
        "queries": len(ready.task.candidates),
        "written": len(labels),
        "left_out": dict(left_out),
        "failed": failed[:NAMED],
        "failed_lists": len(failed),
        "silent": silent,
        "teachers": told,
    }
    return Made(labels=tuple(labels), report=report)


def _joined(ready: Ready, ranking: Ranking, opinions: Mapping[str, Opinion]) -> Opinion:
    if len(opinions) == 1:
        return next(iter(opinions.values()))
    return ready.plan.fusion.join(ranking, opinions)


def _label(ranking: Ranking, opinion: Opinion, teacher: str) -> LabelList:
    complete = all(one in opinion.scores for one in ranking.doc_ids)
    return LabelList(
        qid=ranking.query.id,
        initial=ranking.doc_ids,
        final=opinion.order,
        query=ranking.query.text,
        scores=tuple(opinion.scores[one] for one in ranking.doc_ids) if complete else (),
        teacher=teacher,
    )


def _title(name: str, spec: RunSpec) -> str:
    """What a teacher is called in the file."""
    return f"{spec.method} {spec.model}" if name == "method" else name
