"""Evaluation of rerankers and runs on the text ranking tasks of mteb's benchmarks, with scores by mteb.

First stages and rerankers are mteb models (``SearchProtocol``). mteb saves and scores the rankings of a first stage in
the same way as those of an encoder. A reranker's listwise judges receive whole candidate lists instead of pairs. Every
subset and split of a task has its own run folder with a call log, so interrupted runs can be resumed.

The output folder OUT contains:

OUT/results/ORG__MODEL/REVISION/TASK.json     mteb's results for the reranker and for the first stage
OUT/predictions/ORG__MODEL/REVISION/TASK_predictions.json   the rankings of the first stage
OUT/runs/MODEL-REVISION/TASK/SUBSET.SPLIT/    run folders with calls, failures and token counts
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from rerank.collections import Collection
from rerank.collections.mteb import (
    TaskSplit,
    check_task,
    escape_id,
    find_task,
    import_mteb,
    load_task,
    predictions_file,
)
from rerank.errors import DataError, PartialFailureError, UnknownNameError, UsageError, ensure
from rerank.experiment.candidates import RetrievedCandidates
from rerank.experiment.execute import execute_run, run_tag, show_run_progress
from rerank.experiment.prepare import PreparedRun, prepare_run
from rerank.experiment.spec import Execution, RunSpec
from rerank.io.file_hashes import file_hash, folder_hash
from rerank.io.model_base import hash_encoder_folder
from rerank.io.paths import last_component, portable_name
from rerank.io.settings_files import read_json_object
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


#: Source of the candidates for retrieval tasks: a first stage, or the path of predictions saved by mteb.
FirstStage = MtebFirstStage | str | Path
#: Key in the result of `describe_mteb_candidates` whose value is the content hash of the predictions.
_CONTENT = "predictions"
#: The benchmarks with which this package is tested. `list_mteb_tasks` accepts all benchmarks of mteb.
BENCHMARKS = ("MTEB(Multilingual, v2)", "MTEB(eng, v2)", "MTEB(cmn, v1)")
KINDS = ("Retrieval", "Reranking", "InstructionReranking")  #: Types of tasks that rank texts for a query.


def list_mteb_tasks(benchmark: str = "", names: Sequence[str] = (), kinds: Sequence[str] = KINDS) -> list[Any]:
    """Return the text ranking tasks of a benchmark or of any benchmark, with the splits and subsets of the benchmark.

    Only tasks with these names (all if empty) and, with a benchmark, of these types are returned. It is a `UsageError`
    if neither a benchmark nor a task is given or no task matches.
    """
    for kind in kinds:
        if kind not in KINDS:
            raise UnknownNameError("type of task", kind, KINDS)
    if not benchmark:
        if not names:
            raise UsageError("Neither a benchmark nor a task is given", remedy=f"Pass --benchmark {BENCHMARKS[1]!r}")
        return [find_task(name) for name in names]
    mteb = import_mteb()
    try:
        found_benchmark = mteb.get_benchmark(benchmark)
    except KeyError as error:
        raise UnknownNameError("benchmark", benchmark, [known.name for known in mteb.get_benchmarks()]) from error
    tasks = {
        task.metadata.name: task
        for task in found_benchmark.tasks
        if hasattr(task, "convert_to_reranking")
        and list(task.metadata.modalities) == ["text"]
        and task.metadata.type in kinds
    }
    for name in names:
        if name not in tasks:
            raise UnknownNameError(f"task of {benchmark}:", name, tasks)
    ensure(tasks, f"{benchmark} contains no task of the type {' or '.join(kinds)}", expected="at least one")
    return [tasks[name] for name in dict.fromkeys(names)] if names else list(tasks.values())


def describe_task(task: Any) -> dict[str, Any]:
    """Return a description of a task: name, type, languages, subsets, splits, main score, licence and data source."""
    metadata = task.metadata
    return {
        "task": metadata.name,
        "type": metadata.type,
        "languages": sorted(set(task.languages)),
        "subsets": len(task.hf_subsets),
        "splits": list(task.eval_splits),
        "main_score": metadata.main_score,
        "licence": metadata.license or "not specified",
        "data": metadata.dataset.get("path", ""),
        "revision": metadata.dataset.get("revision", ""),
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskResult:
    """The result of one task."""

    task: str
    revision: str  #: Revision of the reranker. It depends on the candidates of the task (see `evaluate_mteb_task`).
    main_score: str  #: Name of the main score.
    #: One row per split and subset, with the score and the score of the first stage if it was evaluated; also with
    #: token counts, times and window counts if the reranker ran in this process.
    rows: tuple[Mapping[str, Any], ...]
    path: Path  #: Path of mteb's result file.


def evaluate_mteb_task(
    task: Any,
    reranker: MtebReranker,
    *,
    out: str | Path,
    first_stage: FirstStage | None = None,
    depth: int = 100,
    overwrite: bool = False,
) -> TaskResult:
    """Rerank the candidates of a task and let mteb score the rankings. Existing results are read from their files.

    A retrieval task needs a first stage, or the file or folder of predictions saved by ``mteb.evaluate``, on which the
    revision of the reranker then depends; a reranking task has its own candidate lists. The task is not modified.

    Raises:
        UsageError: The revision of the reranker refers to other candidates.
        DataError: A retrieval task has no first stage, or the predictions do not match the task.
        MissingResourceError: The data of the task cannot be loaded.
        PartialFailureError: Some calls got no reply. The other replies are stored.
    """
    place = Path(out)
    task_copy = copy.copy(check_task(task))  # its candidates are set without changing the original
    if task_copy.data_loaded:
        task_copy.dataset = {
            subset: {split: dict(data) for split, data in splits.items()} for subset, splits in task.dataset.items()
        }
    by_lists = task_copy.metadata.type == "Retrieval"
    reranker = reranker.with_first_stage(_candidates(task_copy, reranker, first_stage, depth) if by_lists else {})
    result = None if overwrite else _saved_result(task_copy, reranker, place)
    before = None
    if isinstance(first_stage, MtebFirstStage) and by_lists:
        before = _saved_result(task_copy, first_stage, place)
    seen = len(reranker.reports)
    if result is None:
        load_task(task_copy)
        if by_lists and first_stage is not None:
            before = _set_candidates(task_copy, place, first_stage, depth, overwrite=overwrite)
        result = _evaluate_unless_saved(task_copy, reranker, place, overwrite=overwrite)
    reports = {(report["split"], report["subset"]): report for report in reranker.reports[seen:]}
    earlier = _main_scores(before) if before is not None else {}
    keys = ("windows", "failure_rate", "calls", "reused_calls", "tokens_in", "tokens_out", "seconds", "folder")
    rows = [
        {
            "split": split,
            "subset": subset,
            "score": score,
            "first_stage_score": earlier.get((split, subset)),
            **{key: reports[split, subset][key] for key in keys if (split, subset) in reports},
        }
        for (split, subset), score in _main_scores(result).items()
    ]
    return TaskResult(
        task=task_copy.metadata.name,
        revision=reranker.mteb_model_meta.revision,
        main_score=task_copy.metadata.main_score,
        rows=tuple(rows),
        path=_result_path(task_copy, reranker, place),
    )


def _candidates(task: Any, reranker: MtebReranker, first_stage: FirstStage | None, depth: int) -> dict[str, Any]:
    """Return the description of the candidates, after checking that it matches the reranker."""
    if first_stage is None:
        raise DataError(
            f"{task.metadata.name} is a retrieval task, which has no candidate lists to rerank",
            expected="a first stage or its predictions",
            remedy="Pass --first-stage bm25, or the folder of predictions saved by mteb",
        )
    lists = describe_mteb_candidates(first_stage, depth, task=task.metadata.name)
    # The content of the folder is not compared, because every task adds predictions to it.
    if {**reranker.first_stage, _CONTENT: ""} != {**lists, _CONTENT: ""}:
        raise UsageError(
            f"The reranker was created for the candidates {reranker.first_stage or 'of no first stage'}, "
            f"but the candidates are {lists}",
            remedy="Create it with MtebReranker(..., first_stage=describe_mteb_candidates(first_stage, depth))",
        )
    return lists


def _set_candidates(task: Any, place: Path, first_stage: FirstStage, depth: int, *, overwrite: bool) -> Any:
    """Set the candidates of a retrieval task; return mteb's result for the first stage, None for saved predictions."""
    if isinstance(first_stage, MtebFirstStage):
        first_stage.drop_self = bool(task.ignore_identical_ids)
        meta = first_stage.mteb_model_meta
        folder = place / "predictions" / meta.model_name_as_path() / meta.revision
        predictions = folder / task.prediction_file_name
        scored = _result_path(task, first_stage, place)
        reusable = predictions.is_file() and not overwrite and _covers_task(predictions, scored)
        if not reusable:
            predictions.unlink(missing_ok=True)  # mteb would add predictions to an existing file
        result = _evaluate_unless_saved(task, first_stage, place, overwrite=not reusable, predictions=folder)
    else:
        result, predictions = None, predictions_file(first_stage, task.metadata.name)
    saved = _read_json(predictions)
    parts = [(subset, split) for subset in task.hf_subsets for split in task.eval_splits]
    if missing := [part for part in parts if not isinstance(_predictions_of_part(saved, *part), dict)]:
        raise DataError(
            f"{predictions} contains no predictions for {', '.join(missing[0])}"
            + (" and others" if len(missing) > 1 else ""),
            expected="predictions for every evaluated subset and split",
            remedy="Run mteb.evaluate(encoder, task, prediction_folder=...) to completion",
        )
    task.convert_to_reranking(predictions, top_k=depth)
    return result


def describe_mteb_candidates(first_stage: FirstStage | None, depth: int, *, task: str = "") -> dict[str, Any]:
    """Describe a first stage, or predictions (of all tasks in a folder without a ``task``), for a reranker's revision.

    It is a `DataError` if there are no predictions or several models made them, and a `MissingResourceError` if there
    are none for the task.
    """
    if first_stage is None:
        return {}
    if isinstance(first_stage, MtebFirstStage):
        meta = first_stage.mteb_model_meta
        return {"model": meta.name, "revision": meta.revision, "depth": depth}
    source = Path(first_stage)
    files = sorted(source.glob("*_predictions.json")) if source.is_dir() else [source]
    if not files:
        raise DataError(f"{first_stage} contains no predictions", expected="files named TASK_predictions.json")
    makers = {json.dumps(_read_json(path).get("mteb_model_meta"), sort_keys=True) for path in files}
    if len(makers) > 1:
        raise DataError(
            f"The predictions in {first_stage} come from {len(makers)} models",
            expected="predictions of one model per folder",
        )
    meant = [predictions_file(source, task)] if task else files
    named = "".join(f"{path.name}\0{file_hash(path)}\n" for path in meant)
    content = hashlib.sha256(named.encode("utf-8", "surrogatepass")).hexdigest()
    return {**(json.loads(makers.pop()) or {}), "depth": depth, _CONTENT: content}


def _saved_result(task: Any, model: Any, place: Path) -> Any:
    """Return the saved result of a task; None if it does not exist or is incomplete. No data are loaded."""
    path = _result_path(task, model, place)
    _remove_truncated(path)
    if not path.is_file():
        return None
    saved = import_mteb().ResultCache(place).load_task_result(task.metadata.name, model.mteb_model_meta)
    return None if saved is None or saved.get_missing_evaluations(task) else saved


def _evaluate_unless_saved(
    task: Any, model: Any, place: Path, *, overwrite: bool, predictions: Path | None = None
) -> Any:
    """Return the saved result of a task if it is complete; otherwise evaluate the model and return the new result."""
    mteb = import_mteb()
    _remove_truncated(_result_path(task, model, place))
    evaluation = mteb.evaluate(
        model,
        task,
        co2_tracker=False,
        encode_kwargs={"batch_size": 32, "show_progress_bar": False},
        cache=mteb.ResultCache(place),
        overwrite_strategy="always" if overwrite else "only-missing",
        prediction_folder=predictions,
        show_progress_bar=False,
    )
    return evaluation.task_results[0]


def _result_path(task: Any, model: Any, place: Path) -> Path:
    return Path(import_mteb().ResultCache(place).get_task_result_path(task.metadata.name, model.mteb_model_meta))


def _predictions_of_part(saved: Mapping[str, Any], subset: str, split: str) -> Any:
    splits = saved.get(subset)
    return splits.get(split) if isinstance(splits, dict) else None


def _covers_task(path: Path, result: Path) -> bool:
    """Return whether saved predictions are valid and cover every subset and split that has a saved score."""
    try:
        saved, scored = _read_json(path), _read_json(result)["scores"] if result.is_file() else {}
    except (DataError, KeyError):
        return False
    parts = ((row["hf_subset"], split) for split, rows in scored.items() for row in rows)
    return all(_predictions_of_part(saved, *part) is not None for part in parts)


def _read_json(path: Path) -> dict[str, Any]:
    return read_json_object(path, "file of predictions", expected="a JSON object saved by mteb")


def _remove_truncated(path: Path) -> None:
    """Remove the result file if it is truncated. An interrupted run can leave such a file, and mteb cannot read it."""
    if path.is_file():
        try:
            json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            path.unlink()


def _main_scores(result: Any) -> dict[tuple[str, str], float]:
    rows = ((split, row) for split, own in result.scores.items() for row in own)
    return {(split, row["hf_subset"]): float(row["main_score"]) for split, row in rows}


def write_run_as_result(
    run: Run, qrels: Qrels, task_name: str, out: Path, *, identity: Mapping[str, Any], seconds: float = 0.0
) -> Path:
    """Score a run with mteb's measures, and write a result file that ``mteb.ResultCache(OUT).load_results()`` reads.

    The name of the run becomes that of the model, as in OUT/results/listrank__NAME/REVISION/TASK.json.
    """
    task = find_task(task_name)
    subsets = list(task.metadata.hf_subsets_to_langscripts)
    if len(task.metadata.eval_splits) != 1 or len(subsets) != 1:
        raise UsageError(
            f"{task_name} has {len(task.metadata.eval_splits)} splits and {len(subsets)} subsets",
            expected="a task with one split and one subset, because a run has one set of queries",
        )
    if missing := [query for query in qrels if query not in run or not len(run[query])]:
        raise DataError(
            f"Run {run.name!r} has no list for {len(missing)} of {len(qrels)} judged queries, such as {missing[0]!r}",
            expected="a list for every judged query, because mteb omits queries without a list from its means",
        )
    mteb = import_mteb()
    from mteb._evaluators.retrieval_metrics import calculate_retrieval_scores, make_score_dict
    from mteb.results import TaskResult as MtebTaskResult

    ranked = {
        query: {
            doc: score
            for doc, score in zip(run[query].doc_ids, run[query].scores, strict=True)
            if doc != query or not task.ignore_identical_ids
        }
        for query in qrels
    }
    grades = {query: dict(judged) for query, judged in qrels.judged().items()}
    found = calculate_retrieval_scores(ranked, grades, list(task.k_values))
    names = ("ndcg", "recall", "precision", "mrr", "naucs", "naucs_mrr", "hit_rate")
    scores = dict(make_score_dict(**{name: getattr(found, name) for name in names}, _map=found.map, task_scores={}))
    scores["main_score"] = scores[task.metadata.main_score]
    result = MtebTaskResult.from_task_results(task, {task.metadata.eval_splits[0]: {subsets[0]: scores}}, seconds)
    meta = make_meta(run.name, compute_revision(identity), kind="cross-encoder")
    cache = mteb.ResultCache(out)
    cache.save_to_cache(result, meta)
    return Path(cache.get_task_result_path(task_name, meta))
