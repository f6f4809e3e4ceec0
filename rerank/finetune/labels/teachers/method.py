"""The teacher that is a reranking method with its model: whatever `rerank run` can do.

It is a run: with a folder, a call log and --resume. Knows what a run leaves behind, not how it is made.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from rerank.backends.replay import Replay
from rerank.errors import UsageError
from rerank.experiment.replay import replay
from rerank.experiment.spec import RunSpec
from rerank.finetune.labels.teachers.base import Opinion, Task
from rerank.judges import FAILURES, judges, open_judge
from rerank.judges.base.pointwise import Pointwise
from rerank.judges.relate import Relate
from rerank.methods import open_method
from rerank.pipeline.driver import Outcome
from rerank.prompts import load_prompt
from rerank.store import RunFolder
from rerank.types import Ranking

#: What a run's report keeps of its summary.
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
    """The method and the model of the specification; with ``multipass`` the whole list is in order.

    A list with a failed window has no label: the window kept its given order, which is nobody's opinion. Neither has
    one whose query is blank. Scores are those of methods that give each document one: cross-encoders and pointwise.
    """

    runs: ClassVar[bool] = True
    judged_only: ClassVar[bool] = False

    def scored(self, spec: RunSpec) -> bool:
        """For cross-encoders and pointwise methods over the whole list."""
        method = open_method(spec.method)
        return method.strategy == "full" and issubclass(judges.get(method.judge), Relate | Pointwise)

    def label(self, task: Task) -> tuple[Mapping[str, Opinion], Mapping[str, Any]]:
        """See `Teacher`.

        Raises:
            UsageError: The task has no run.
            RerankError: What executing a run raises; committed calls are kept.
        """
        if task.prepared is None:
            raise UsageError("The teacher method without a prepared run", expected="Task.prepared")
        summary = task.execute(task.prepared, task.execution)
        folder = RunFolder(summary["folder"])
        result = folder.read_run("run.trec")
        _, outcome, _ = replay(folder)
        failed, partial = (_queries(outcome, statuses) for statuses in (FAILURES, {"partial"}))
        scores = scores_of(folder)
        found = {}
        for name, given in task.candidates.items():
            order = result[name].doc_ids if name in result else given.doc_ids
            reason = "" if given.query.text.strip() else "the query is blank"
            if name in failed:
                reason = "a window failed"
            found[name] = Opinion(order=order, scores=scores.get(name, {}), failed=reason)
        told = {key: summary[key] for key in _KEPT}
        return found, told | {"lists_with_partial_windows": len(partial)}


def _queries(outcome: Outcome, statuses: Collection[str]) -> set[str]:
    """The queries that have a window with one of these statuses."""
    return {window.query.id for window, verdict in outcome.judged if verdict.status in statuses}


def scores_of(folder: RunFolder) -> dict[str, dict[str, float]]:
    """Query -> document -> score, of a finished run whose method gives each document one; else nothing.

    Only scores of whole lists that put the list in the order of the result are returned.
    """
    spec = RunSpec.make(folder.spec()["spec"])
    if not Method().scored(spec):
        return {}
    method = open_method(spec.method)
    with folder.calls(readonly=True) as log:
        calls = list(log.calls())
    judge = open_judge(method.judge_selector, Replay(calls), load_prompt(judges.get(method.judge).prompt))
    heard: dict[str, dict[str, float]] = {}
    for call in calls:
        row = heard.setdefault(call.query_id, {})
        if isinstance(judge, Pointwise):
            if call.reply.scores:
                row[call.doc_ids[0]] = judge.score(call.reply.scores)
        else:
            row |= dict(zip(call.doc_ids, call.reply.scores, strict=False))
    result = folder.read_run("run.trec")
    return {query: scores for query, scores in heard.items() if query in result and _agrees(result[query], scores)}


def _agrees(result: Ranking, scores: Mapping[str, float]) -> bool:
    found = [scores.get(one) for one in result.doc_ids]
    known = [value for value in found if value is not None and value == value and abs(value) != float("inf")]
    return len(known) == len(found) and known == sorted(known, reverse=True)
