"""Rerankers as mteb models (``SearchProtocol``). Listwise judges receive whole candidate lists instead of pairs.

Every subset and split of a task has its own run folder with a call log, so interrupted runs can be resumed.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, cast

from rerank.collections import Collection
from rerank.collections.mteb import TaskSplit, escape_id
from rerank.errors import PartialFailureError, UsageError
from rerank.experiment.candidates import RetrievedCandidates
from rerank.experiment.execute import execute_run, run_tag
from rerank.experiment.prepare import PreparedRun, prepare_run
from rerank.experiment.run_progress import show_run_progress
from rerank.experiment.spec import Execution, RunSpec
from rerank.mmteb.model_meta import compute_mteb_revision, make_mteb_model_meta
from rerank.store import RunFolder
from rerank.tasks import Backend
from rerank.types import Qrels, Run


class MtebReranker:
    """A reranker as an mteb model, for tasks with candidate lists.

    In reranking tasks, the order of the candidates is arbitrary, or relevant candidates come first. They are therefore
    shuffled with the seed unless the specification sets another order. Candidates from a first stage keep their order.

    Args:
        spec: Specification of the reranker. The collection, first stage and depth are set for each task.
        out: Folder of the runs.
        execution: Options for the execution. ``out`` and ``resume`` are set for each run.
        backend: A loaded backend for the model of ``spec``; if None, the model is loaded.
        first_stage: Source of the candidates for retrieval tasks (`rerank.mmteb.evaluation.describe_mteb_candidates`).
            It is part of the revision, because mteb would otherwise reuse results for other candidates.

    Attributes:
        reports: One run summary per reranked subset and split, with additional keys for task, subset and split.
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
        """Load the model and check the specification."""
        self._execution = execution or Execution()
        placeholder = RetrievedCandidates(
            collection=cast(Collection, _NoCollection()), qrels=Qrels({}), first_stage=Run(())
        )
        self._ready: PreparedRun = prepare_run(spec, self._execution, backend=backend, candidates=placeholder)
        self.spec = self._ready.spec
        self._out = Path(out)
        self.first_stage = dict(first_stage or {})
        self._corpus: Any = None
        self.reports: list[dict[str, Any]] = []

    @classmethod
    def create(
        cls,
        *,
        out: str | Path,
        backend: Backend | None = None,
        first_stage: Mapping[str, Any] | None = None,
        **values: Any,
    ) -> MtebReranker:
        """Create a reranker from fields of a run specification, such as ``model`` and ``method``."""
        spec = RunSpec.make({"collection": "mteb", **values})
        return cls(spec, out=out, backend=backend, first_stage=first_stage)

    def with_first_stage(self, first_stage: Mapping[str, Any]) -> MtebReranker:
        """Return a reranker for candidates from another source. Both rerankers share the model and ``reports``.

        Args:
            first_stage: Description of the source; empty for the tasks' own candidate lists.
        """
        other = copy.copy(self)
        other.first_stage = dict(first_stage)
        vars(other).pop("mteb_model_meta", None)
        return other

    @cached_property
    def mteb_model_meta(self) -> Any:
        """Model metadata. The name contains method and model; the revision covers all values that affect results."""
        model = self.spec.model.rstrip("/").rpartition("/")[2]
        tokens = getattr(self._ready.backend.tokens, "context_size", None)
        own = self._shuffle("Reranking")
        identity = {
            **self._ready.identity(),
            "first_stage": self.first_stage,
            "own_lists": f"random {self.spec.seed}" if own == "random" else own,
        }
        return make_mteb_model_meta(
            f"{run_tag(self.spec)}-{model}",
            compute_mteb_revision(identity),
            kind="cross-encoder",
            max_tokens=float(tokens) if isinstance(tokens, int) else None,
            adapted_from=self.spec.model if self.spec.model.count("/") == 1 else None,
        )

    def index(self, corpus: Any, **more: Any) -> None:
        """Store the documents of a subset and split. A reranker does not build an index."""
        self._corpus = corpus

    def search(
        self, queries: Any, *, task_metadata: Any, hf_split: str, hf_subset: str, top_ranked: Any = None, **more: Any
    ) -> dict[str, dict[str, float]]:
        """Rerank the candidate lists of a subset and split.

        Returns:
            A mapping from each query id to a mapping from document ids to 1 / rank. All candidates are returned, so
            mteb's ``top_k`` has no effect.

        Raises:
            UsageError: There are no candidate lists.
            PartialFailureError: Some calls got no reply. mteb then saves no score, and the next run repeats these
                calls.
        """
        if top_ranked is None or self._corpus is None:
            raise UsageError(
                f"{task_metadata.name} has no candidate lists to rerank",
                expected="a reranking task, or the lists of a first stage",
                remedy="Call task.convert_to_reranking(predictions, top_k=100), or rerank mteb run --first-stage bm25",
            )
        data = {"corpus": self._corpus, "queries": queries, "top_ranked": top_ranked}
        part = TaskSplit(task_metadata, hf_subset, hf_split, data)
        candidates = part.candidates()
        found = RetrievedCandidates(collection=part, qrels=Qrels({}), first_stage=candidates)
        folder = self.folder(task_metadata.name, hf_subset, hf_split)
        spec = self.spec.model_copy(
            update={
                "collection": f"mteb:{task_metadata.name},subset={hf_subset},split={hf_split}",
                "first_stage": "candidates",
                "depth": max(1, *map(len, candidates.values())),
                "shuffle": self._shuffle(task_metadata.type),
            }
        )
        execution = self._execution.model_copy(update={"out": folder, "resume": True})
        prepared = prepare_run(spec, execution, backend=self._ready.backend, candidates=found)
        with show_run_progress(prepared, f"{part.name}: calls") as on_reply:
            summary = execute_run(prepared, execution, on_reply=on_reply)
        self.reports.append({"task": task_metadata.name, "subset": hf_subset, "split": hf_split, **summary})
        if not summary["complete"]:
            raise _no_reply_error_in_mteb(summary)
        return _mteb_scores_of_ranks(part, candidates, RunFolder(folder).read_run("run.trec"))

    def folder(self, task: str, subset: str, split: str) -> Path:
        """Return the run folder of a subset and split."""
        meta = self.mteb_model_meta
        name = f"{meta.name.rpartition('/')[2]}-{meta.revision}"
        return self._out / "runs" / name / task / f"{escape_id(subset).replace('/', '%2F')}.{split}"

    def _shuffle(self, kind: str) -> str:
        """Return the order in which the candidates of a task of the type ``kind`` are reranked.

        This is the order in the specification; but if that order is ``none``, the tasks' own lists are shuffled.
        """
        return "random" if self.spec.shuffle == "none" and kind != "Retrieval" else self.spec.shuffle


class _NoCollection:
    """A placeholder for a collection, so that the reranker can be prepared before mteb passes the data of a task."""

    name, relevant = "none", 1


def _mteb_scores_of_ranks(part: TaskSplit, candidates: Run, ranked: Run) -> dict[str, dict[str, float]]:
    """Return a mapping from each query id to a mapping from document ids to 1 / rank, with the ids of mteb.

    The mapping is empty for queries without candidates.
    """
    table = {}
    for query_id, ranking in candidates.items():
        order = ranked[query_id].doc_ids if query_id in ranked else ()
        if set(order) != set(ranking.doc_ids):
            raise RuntimeError(f"Query {query_id!r} was returned with documents that differ from its candidates")
        own = part.texts.own_ids
        table[str(part.own_queries[query_id])] = {own[doc]: 1.0 / rank for rank, doc in enumerate(order, 1)}
    return table


def _no_reply_error_in_mteb(summary: Mapping[str, Any]) -> PartialFailureError:
    first = next((f["detail"] for f in summary["failures"] if f["status"] == "error"), "")
    return PartialFailureError(
        f"{summary['windows']['error']} windows got no reply. {first}",
        expected="a reply to every call before a task is scored",
        remedy=f"The other replies are stored in {summary['folder']!r}; repeat the command to retry the failed calls",
    )
