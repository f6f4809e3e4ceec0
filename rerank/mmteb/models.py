"""First stages and rerankers as mteb models (``SearchProtocol``), with their metadata.

mteb saves and scores the rankings of a first stage in the same way as those of an encoder. A reranker's listwise judges
receive whole candidate lists instead of pairs. Every subset and split of a task has its own run folder with a call log,
so interrupted runs can be resumed.
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import fields
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from rerank.collections import Collection
from rerank.collections.mteb import TaskSplit, escape_id, import_mteb
from rerank.errors import PartialFailureError, UsageError
from rerank.experiment.candidates import RetrievedCandidates
from rerank.experiment.execute import execute_run, run_tag, show_run_progress
from rerank.experiment.prepare import PreparedRun, prepare_run
from rerank.experiment.spec import Execution, RunSpec
from rerank.io.file_hashes import file_hash, folder_hash
from rerank.io.model_base import hash_encoder_folder
from rerank.io.paths import last_component, portable_name
from rerank.models import MODELS, model_folder
from rerank.retrieval import first_stages, open_first_stage
from rerank.retrieval.base import HasNestedStages
from rerank.retrieval.base.stages import ExcludingRetriever, RetrieverSource
from rerank.selector import Selector, build_from_selector
from rerank.store import RunFolder
from rerank.tasks import Backend
from rerank.types import Qrels, Run, make_ranking_scores_strictly_decrease

ORGANISATION = "listrank"  #: Organisation in the names of the models, before the slash.
#: Model type in mteb, by name of the first stage. All other first stages have the type ``hybrid``.
_KINDS = {"bm25": "sparse", "lucene": "sparse", "sparse": "sparse", "dense": "dense"}


def compute_revision(identity: Mapping[str, Any]) -> str:
    """Return the first 12 hexadecimal digits of the SHA-256 of an identity (all values that determine a result)."""
    text = json.dumps(identity, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def make_meta(name: str, revision: str, *, kind: str, **known: Any) -> Any:
    """Create mteb's metadata of a model of a type (cross-encoder, dense, sparse or hybrid); unknown fields are None."""
    import_mteb()
    from mteb.models import ModelMeta

    unknown = dict.fromkeys(
        (
            *("release_date", "languages", "n_parameters", "memory_usage_mb", "max_tokens", "embed_dim", "license"),
            *("open_weights", "public_training_code", "public_training_data", "similarity_fn_name"),
            *("use_instructions", "training_datasets"),
        )
    )
    return ModelMeta(
        loader=None,
        name=f"{ORGANISATION}/{re.sub(r'[^A-Za-z0-9_.-]+', '-', name).strip('-')}",
        revision=revision,
        framework=[],
        model_type=[kind],
        **{**unknown, **known},
    )


class MtebFirstStage:
    """A first stage as an mteb model (``SearchProtocol``), from its selector, such as ``bm25``."""

    def __init__(self, selector: str = "bm25") -> None:
        self.selector = selector
        #: Whether the document whose id equals the query id is dropped before the ranking is truncated. For some tasks,
        #: mteb drops this document after truncation, so the reranker would receive one candidate fewer.
        self.drop_self = False
        self._part: TaskSplit | None = None
        self._search: RetrieverSource | None = None

    @property
    def mteb_model_meta(self) -> Any:
        """Model metadata; the revision depends on all options and on the contents of files and models in them."""
        name = Selector.parse(self.selector).name
        content = hash_contents(self.selector)
        identity = {"selector": self.selector, "listrank": version("listrank")}
        revision = compute_revision({**identity, **({"content": content} if content else {})})
        return make_meta(self.selector, revision, kind=_KINDS.get(name, "hybrid"))

    def index(self, corpus: Any, *, task_metadata: Any, hf_split: str, hf_subset: str, **more: Any) -> None:
        self._part = TaskSplit(task_metadata, hf_subset, hf_split, {"corpus": corpus, "queries": []})
        self._part.drop_self = self.drop_self
        self._search = open_first_stage(self.selector, self._part)

    def search(
        self, queries: Any, *, task_metadata: Any, hf_split: str, hf_subset: str, top_k: int, **more: Any
    ) -> dict[str, dict[str, float]]:
        """Return the best ``top_k`` documents of each query, with strictly decreasing scores."""
        if self._part is None or self._search is None:
            raise UsageError(
                "search() was called before index()", remedy="Pass the model to mteb.evaluate, which calls both"
            )
        allowed = more.get("top_ranked")
        if allowed is not None and task_metadata.type != "Retrieval":
            raise UsageError(
                f"The first stage {self.selector!r} received candidate lists to rerank",
                expected="a task without candidate lists",
                remedy="Rerank the lists with MtebReranker",
            )
        self._part.allowed = allowed or {}
        split = TaskSplit(task_metadata, hf_subset, hf_split, {"corpus": [], "queries": queries})
        search = ExcludingRetriever(retriever=self._search, excluded=self._part.excluded())
        own = self._part.texts.own_ids
        return {
            str(split.own_queries[query_id]): {
                own[doc.id]: score
                for doc, score in zip(
                    ranking.docs, make_ranking_scores_strictly_decrease(ranking.written_scores), strict=True
                )
            }
            for query_id, ranking in search.search(split.queries(), top_k).items()
        }


def parse_mteb_first_stage(text: str) -> MtebFirstStage | Path:
    """Return the first stage of this name, with options, or the path of saved predictions (``./bm25`` is a path)."""
    if Selector.parse(text).name in first_stages:
        return MtebFirstStage(text)
    path = Path(text).expanduser()
    return path if "/" in text or path.exists() else MtebFirstStage(text)


def hash_contents(selector: str) -> dict[str, str]:
    """Return SHA-256 by name of each existing file, folder and known model that the options of a first stage name."""
    hashes = {}
    for text in _option_texts(build_from_selector(first_stages, selector)):
        path = model_folder(text) if text in MODELS else Path(text).expanduser() if text else None
        # os.path.exists raises no error if the selector of a nested stage is too long for a file name.
        if path is None or not os.path.exists(path):
            continue
        if not path.is_dir():
            hashes[text] = file_hash(path)
        elif not any((path / name).is_file() for name in ("config.json", "modules.json")):
            hashes[text] = folder_hash(path)
        else:  # the hash stays the same if a model is saved again with the same weights and settings
            hashes[text] = hash_encoder_folder(path)
    return hashes


def _option_texts(stage: Any) -> Iterator[str]:
    """Yield the values of all string options, including defaults, of a first stage and of its nested first stages."""
    if isinstance(stage, HasNestedStages):
        for selector in stage.nested_stages:
            yield from _option_texts(build_from_selector(first_stages, selector))
    yield from (getattr(stage, field.name) for field in fields(stage) if field.type in ("str", str))


class MtebReranker:
    """A reranker as an mteb model, for tasks with candidate lists.

    In reranking tasks, the order of the candidates is arbitrary, or relevant candidates come first. They are therefore
    shuffled with the seed unless the specification sets another order. Candidates from a first stage
    (`rerank.mmteb.evaluation.describe_mteb_candidates`) keep their order, and are part of the revision, because mteb
    would otherwise reuse results for other candidates. ``out`` and ``resume`` of the execution are set for each run.
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
        self._execution = execution or Execution()
        # a placeholder, so that the reranker can be prepared before mteb passes the data of a task
        collection = cast(Collection, SimpleNamespace(name="none", relevant=1))
        placeholder = RetrievedCandidates(collection=collection, qrels=Qrels({}), first_stage=Run(()))
        self._ready: PreparedRun = prepare_run(spec, self._execution, backend=backend, candidates=placeholder)
        self.spec = self._ready.spec
        self._out = Path(out)
        self.first_stage = dict(first_stage or {})
        self._corpus: Any = None
        #: One run summary per reranked subset and split, with additional keys for task, subset and split.
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
        """Return a reranker for other candidates (empty for the tasks' own) with the same model and ``reports``."""
        other = copy.copy(self)
        other.first_stage = dict(first_stage)
        vars(other).pop("mteb_model_meta", None)
        return other

    @cached_property
    def mteb_model_meta(self) -> Any:
        """Model metadata. The name contains method and model; the revision covers all values that affect results."""
        tokens = getattr(self._ready.backend.tokens, "context_size", None)
        own = self._shuffle("Reranking")
        identity = {
            **self._ready.identity(),
            "first_stage": self.first_stage,
            "own_lists": f"random {self.spec.seed}" if own == "random" else own,
        }
        return make_meta(
            f"{run_tag(self.spec)}-{last_component(self.spec.model)}",
            compute_revision(identity),
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
        """Rerank all candidates of a subset and split; each document's score is 1 / rank.

        If some calls got no reply, mteb saves no score (`PartialFailureError`), and the next run repeats these calls.
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
            first = next((f["detail"] for f in summary["failures"] if f["status"] == "error"), "")
            raise PartialFailureError(
                f"{summary['windows']['error']} windows got no reply. {first}",
                expected="a reply to every call before a task is scored",
                remedy=f"The other replies are stored in {summary['folder']!r}; repeat the command to retry the failed "
                "calls",
            )
        ranked = RunFolder(folder).read_run("run.trec")
        table = {}
        for query_id, ranking in candidates.items():
            order = ranked[query_id].doc_ids if query_id in ranked else ()
            if set(order) != set(ranking.doc_ids):
                raise RuntimeError(f"Query {query_id!r} was returned with documents that differ from its candidates")
            own = part.texts.own_ids
            table[str(part.own_queries[query_id])] = {own[doc]: 1.0 / rank for rank, doc in enumerate(order, 1)}
        return table

    def folder(self, task: str, subset: str, split: str) -> Path:
        meta = self.mteb_model_meta
        name = portable_name(f"{meta.name.rpartition('/')[2]}-{meta.revision}")
        return self._out / "runs" / name / task / f"{escape_id(subset).replace('/', '%2F')}.{split}"

    def _shuffle(self, kind: str) -> str:
        """Return the order of candidates in a type of task; the tasks' own lists are shuffled instead of ``none``."""
        return "random" if self.spec.shuffle == "none" and kind != "Retrieval" else self.spec.shuffle
