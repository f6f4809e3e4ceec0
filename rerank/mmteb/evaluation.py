"""Evaluation of rerankers and runs on the text ranking tasks of mteb's benchmarks, with scores by mteb.

The output folder OUT contains:

OUT/results/ORG__MODEL/REVISION/TASK.json     mteb's results for the reranker and for the first stage
OUT/predictions/ORG__MODEL/REVISION/TASK_predictions.json   the rankings of the first stage
OUT/runs/MODEL-REVISION/TASK/SUBSET.SPLIT/    run folders with calls, failures and token counts
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rerank.collections.mteb import check_task, find_task, import_mteb, load_task, predictions_file
from rerank.errors import DataError, UnknownNameError, UsageError, ensure
from rerank.io.file_hashes import file_hash
from rerank.io.settings_files import read_json_object
from rerank.mmteb.models import MtebFirstStage, MtebReranker, compute_revision, make_meta
from rerank.types import Qrels, Run

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
