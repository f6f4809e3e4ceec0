"""A reranker as a model of mteb: its ``SearchProtocol``, so that listwise judges see whole lists, not pairs.

Every part (subset and split) of a task becomes a run folder with its call log: what was killed is gone on with, and
what went wrong is counted there. Knows mteb's protocol, not its scores.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, cast

from rerank.collections import Collection
from rerank.collections.mteb.task_split import TaskSplit, escape_id
from rerank.errors import PartialFailureError, UsageError
from rerank.experiment.candidates import RetrievedCandidates
from rerank.experiment.execute import execute, run_name
from rerank.experiment.prepare import PreparedRun, prepare
from rerank.experiment.spec import Execution, RunSpec
from rerank.mmteb.model_meta import compute_revision, model_meta
from rerank.progress import progress
from rerank.store import RunFolder
from rerank.tasks import Backend
from rerank.types import Qrels, Run


class MtebReranker:
    """A reranker that mteb can ask, for tasks that bring lists or were given some.

    Candidates of reranking tasks come in no order that means anything, or with the relevant ones first; they are
    shuffled by the seed unless the specification names another order. Lists of a first stage keep their order.

    Args:
        spec: The reranker; its collection, first stage and depth are the tasks'. See `of`.
        out: Folder under which the runs are kept.
        execution: How; its folder and resuming are the parts' own.
        backend: One that is loaded already; it must be what ``spec`` names.
        first_stage: What the lists of retrieval tasks come from (`rerank.mmteb.evaluation.describe_lists`); part of the
            revision, as mteb would else take results over other lists for these.

    Attributes:
        reports: One for every part that was searched: the run's summary, with task, subset and split.
    """

    def __init__(
        self,
        spec: RunSpec,
        *,
        out: str | Path,
        execution: Execution | None = None,
        backend: Backend | None = None,
        first_stage: Mapping[str, Any] | None = None,
    ) -> None:
        """Load the model; nothing is asked yet."""
        self._execution = execution or Execution()
        nothing = RetrievedCandidates(collection=cast(Collection, _Nothing()), qrels=Qrels({}), first_stage=Run(()))
        self._ready: PreparedRun = prepare(spec, self._execution, backend=backend, candidates=nothing)
        self.spec = self._ready.spec
        self._out = Path(out)
        self.first_stage = dict(first_stage or {})
        self._corpus: Any = None
        self.reports: list[dict[str, Any]] = []

    @classmethod
    def of(
        cls,
        *,
        out: str | Path,
        backend: Backend | None = None,
        first_stage: Mapping[str, Any] | None = None,
        **values: Any,
    ) -> MtebReranker:
        """A reranker from the fields of a run specification, such as ``model`` and ``method``."""
        spec = RunSpec.make({"collection": "mteb", **values})
        return cls(spec, out=out, backend=backend, first_stage=first_stage)

    def over(self, first_stage: Mapping[str, Any]) -> MtebReranker:
        """The same reranker over other lists, or, given nothing, over tasks' own; model and ``reports`` are shared."""
        other = copy.copy(self)
        other.first_stage = dict(first_stage)
        vars(other).pop("mteb_model_meta", None)
        return other

    @cached_property
    def mteb_model_meta(self) -> Any:
        """Name (method and model) and revision (everything that decides a result, the first stage too)."""
        model = self.spec.model.rstrip("/").rpartition("/")[2]
        tokens = getattr(self._ready.backend.tokens, "context_size", None)
        own = self._shuffle("Reranking")
        identity = {
            **self._ready.identity(),
            "first_stage": self.first_stage,
            "own_lists": f"random {self.spec.seed}" if own == "random" else own,
        }
        return model_meta(
            f"{run_name(self.spec)}-{model}",
            compute_revision(identity),
            kind="cross-encoder",
            max_tokens=float(tokens) if isinstance(tokens, int) else None,
            adapted_from=self.spec.model if self.spec.model.count("/") == 1 else None,
        )

    def index(self, corpus: Any, **more: Any) -> None:
        """Keep the part's documents at hand; a reranker has no index."""
        self._corpus = corpus

    def search(
        self, queries: Any, *, task_metadata: Any, hf_split: str, hf_subset: str, top_ranked: Any = None, **more: Any
    ) -> dict[str, dict[str, float]]:
        """Rerank the lists of a part.

        Returns:
            Query -> document -> 1 / rank. Every document of a list comes back, so mteb's ``top_k`` cuts nothing here.

        Raises:
            UsageError: There are no lists.
            PartialFailureError: Calls got no reply. mteb then saves no score, and the next time they are asked again.
        """
        if top_ranked is None or self._corpus is None:
            raise UsageError(
                f"{task_metadata.name} brings no lists to rerank",
                expected="a reranking task, or lists of a first stage",
                remedy="task.convert_to_reranking(predictions, top_k=100), or rerank mteb run --first-stage bm25",
            )
        data = {"corpus": self._corpus, "queries": queries, "top_ranked": top_ranked}
        part = TaskSplit(task_metadata, hf_subset, hf_split, data)
        candidates = part.candidates()
        found = RetrievedCandidates(collection=part, qrels=Qrels({}), first_stage=candidates)
        place = self.folder(task_metadata.name, hf_subset, hf_split)
        spec = self.spec.model_copy(
            update={
                "collection": f"mteb:{task_metadata.name},subset={hf_subset},split={hf_split}",
                "first_stage": "candidates",
                "depth": max(1, *map(len, candidates.values())),
                "shuffle": self._shuffle(task_metadata.type),
            }
        )
        execution = self._execution.model_copy(update={"out": place, "resume": True})
        prepared = prepare(spec, execution, backend=self._ready.backend, candidates=found)
        with progress(f"{part.name}: calls", prepared.calls(), bound="at most") as advance:
            summary = execute(prepared, execution, on_reply=lambda reply: advance(1))
        self.reports.append({"task": task_metadata.name, "subset": hf_subset, "split": hf_split, **summary})
        if not summary["complete"]:
            raise _unanswered(summary)
        return _scored(part, candidates, RunFolder(place).read_run("run.trec"))

    def folder(self, task: str, subset: str, split: str) -> Path:
        """Where the run of a part is kept."""
        meta = self.mteb_model_meta
        name = f"{meta.name.rpartition('/')[2]}-{meta.revision}"
        return self._out / "runs" / name / task / f"{escape_id(subset).replace('/', '%2F')}.{split}"

    def _shuffle(self, kind: str) -> str:
        """The order in which lists are given: those of a first stage as they are, a task's own by chance."""
        return "random" if self.spec.shuffle == "none" and kind != "Retrieval" else self.spec.shuffle


class _Nothing:
    """What stands for a collection where the reranker alone is looked at."""

    name, relevant = "none", 1


def _scored(part: TaskSplit, given: Run, ranked: Run) -> dict[str, dict[str, float]]:
    """1 / rank, by mteb's own ids; queries without candidates have none here either."""
    table = {}
    for query_id, ranking in given.items():
        order = ranked[query_id].doc_ids if query_id in ranked else ()
        if set(order) != set(ranking.doc_ids):
            raise RuntimeError(f"Query {query_id!r} came back with other documents than it went with")
        own = part.texts.own_ids
        table[str(part.own_queries[query_id])] = {own[doc]: 1.0 / rank for rank, doc in enumerate(order, 1)}
    return table


def _unanswered(summary: Mapping[str, Any]) -> PartialFailureError:
    first = next((f["detail"] for f in summary["failures"] if f["status"] == "error"), "")
    return PartialFailureError(
        f"{summary['windows']['error']} windows got no reply. {first}",
        expected="a reply to every call, before a task gets a score",
        remedy=f"The others are kept in {summary['folder']!r}; the same command asks the open ones again",
    )
