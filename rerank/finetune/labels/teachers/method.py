"""The teacher `method`: a reranking method and its model, executed as a run with a folder, which can be resumed."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from rerank.assemble import plan_ranker
from rerank.backends.replay import Replay
from rerank.errors import UsageError
from rerank.experiment.prepare import ranker_settings
from rerank.experiment.replay import replay_run_folder
from rerank.experiment.spec import RunSpec
from rerank.finetune.labels.teachers.base import LabellingTask, TeacherRanking
from rerank.judges import FAILURES, judges
from rerank.judges.base import PointwiseJudge
from rerank.judges.pointwise import Relate
from rerank.methods import open_method
from rerank.pipeline.results import RerankOutcome
from rerank.selector import convert_selector_options
from rerank.store import RunFolder
from rerank.types import Ranking

#: Keys of the run summary that are copied to the report.
_KEPT = (
    "folder",
    "windows",
    "failure_rate",
    "failures",
    "complete",
    "calls",
    "reused_calls",
    "tokens_in",
    "tokens_out",
)


@dataclass(frozen=True, slots=True)
class Method:
    """Teacher that ranks with the method and the model of the run specification.

    A list with a failed window has no label, because the window keeps its first-stage order. A list with a blank query
    has no label either. Cross-encoders and pointwise methods also provide scores.
    """

    runs: ClassVar[bool] = True
    judged_only: ClassVar[bool] = False

    def scored(self, spec: RunSpec) -> bool:
        """Return True if a cross-encoder or pointwise judge scores the whole list without adding first-stage scores."""
        method = open_method(spec.method)
        judge = judges.get(method.judge.name)
        weight = convert_selector_options(method.judge.name, judge, method.judge.options).get("first_stage", 0.0)
        return method.strategy.name == "full" and issubclass(judge, Relate | PointwiseJudge) and not weight

    def label(self, task: LabellingTask) -> tuple[Mapping[str, TeacherRanking], Mapping[str, Any]]:
        """Execute or resume the reranking run, and return its rankings."""
        if task.prepared is None:
            raise UsageError(
                "The teacher 'method' has no prepared run", expected="a labelling task from prepare_labelling"
            )
        summary = task.execute(task.prepared, task.execution)
        folder = RunFolder(summary["folder"])
        result = folder.read_run("run.trec")
        _, outcome, _ = replay_run_folder(folder)
        failed, partial = (_queries_failed_by_teacher(outcome, statuses) for statuses in (FAILURES, {"partial"}))
        scores = scores_of_teacher_run(folder)
        rankings = {}
        for name, candidates in task.candidates.items():
            order = result[name].doc_ids if name in result else candidates.doc_ids
            reason = "" if candidates.query.text.strip() else "the query is blank"
            if name in failed:
                reason = "a window failed"
            rankings[name] = TeacherRanking(order=order, scores=scores.get(name, {}), failed=reason)
        report = {key: summary[key] for key in _KEPT}
        return rankings, report | {"lists_with_partial_windows": len(partial)}


def _queries_failed_by_teacher(outcome: RerankOutcome, statuses: Collection[str]) -> set[str]:
    """Return the ids of queries that have a window with one of the given statuses."""
    return {window.query.id for window, verdict in outcome.judged if verdict.status in statuses}


def scores_of_teacher_run(folder: RunFolder) -> dict[str, dict[str, float]]:
    """Return the scores of a completed run, as a mapping from query id to a mapping from document id to score.

    A query is included only if all of its documents have scores and the order of the scores agrees with the result.
    """
    spec = RunSpec.from_record(folder.spec()["spec"])
    if not Method().scored(spec):
        return {}
    with folder.calls(readonly=True) as log:
        calls = list(log.calls())
    judge = plan_ranker(ranker_settings(spec)).open_recorded_judge(Replay(calls))
    heard: dict[str, dict[str, float]] = {}
    for call in calls:
        row = heard.setdefault(call.query_id, {})
        if isinstance(judge, PointwiseJudge):
            if call.reply.scores:
                row[call.doc_ids[0]] = judge.score(call.reply.scores)
        else:
            row |= dict(zip(call.doc_ids, call.reply.scores, strict=False))
    result = folder.read_run("run.trec")
    return {
        query: scores
        for query, scores in heard.items()
        if query in result and _scores_agree_with_teacher_order(result[query], scores)
    }


def _scores_agree_with_teacher_order(result: Ranking, scores: Mapping[str, float]) -> bool:
    values = [scores.get(doc_id) for doc_id in result.doc_ids]
    known = [value for value in values if value is not None and value == value and abs(value) != float("inf")]
    return len(known) == len(values) and known == sorted(known, reverse=True)
