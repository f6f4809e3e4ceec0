"""Evaluation of a reranker on mteb tasks: retrieve candidates, rerank them, and let mteb score the rankings.

The output folder OUT contains:

OUT/results/ORG__MODEL/REVISION/TASK.json     mteb's results for the reranker and for the first stage
OUT/predictions/ORG__MODEL/REVISION/TASK_predictions.json   the rankings of the first stage
OUT/runs/MODEL-REVISION/TASK/SUBSET.SPLIT/    run folders with calls, failures and token counts
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rerank.collections.mteb import (
    check_task,
    import_mteb,
    load_task,
    predictions_file,
)
from rerank.errors import DataError, UsageError
from rerank.io.file_hashes import file_hash
from rerank.io.settings_files import read_json_object
from rerank.mmteb.first_stage import MtebFirstStage
from rerank.mmteb.reranker import MtebReranker

#: Source of the candidates for retrieval tasks: a first stage, or the path of predictions saved by mteb.
FirstStage = MtebFirstStage | str | Path
#: Key in the result of `describe_mteb_candidates` whose value is the content hash of the predictions.
_CONTENT = "predictions"


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskResult:
    """The result of one task.

    Attributes:
        task: Name of the task.
        revision: Revision of the reranker. It depends on the candidates of the task (see `evaluate_mteb_task`).
        main_score: Name of the main score.
        rows: One row per split and subset, with the score and the score of the first stage if it was evaluated. If the
            reranker ran in this process, rows also have token counts, times and window counts.
        path: Path of mteb's result file.
    """

    task: str
    revision: str
    main_score: str
    rows: tuple[Mapping[str, Any], ...]
    path: Path


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

    The revision of the reranker depends on the candidates. For a retrieval task, it depends on the first stage, or on
    the file of predictions for this task. For a reranking task, it does not depend on a first stage.

    Args:
        task: An mteb task. It is not modified.
        reranker: The reranker.
        out: Folder of all results.
        first_stage: First stage for retrieval tasks, or the file or folder of predictions saved by ``mteb.evaluate``.
            It is not used for reranking tasks, which contain their own candidate lists.
        depth: Number of candidates per query that a first stage retrieves.
        overwrite: Whether to repeat the evaluation and replace existing results.

    Raises:
        UsageError: The revision of the reranker refers to other candidates.
        DataError: A retrieval task has no first stage, or the predictions do not match the task.
        MissingResourceError: The data of the task cannot be loaded.
        PartialFailureError: Some calls got no reply. The other replies are stored.
    """
    place = Path(out)
    task_copy = _copy_mteb_task(check_task(task))
    by_lists = task_copy.metadata.type == "Retrieval"
    reranker = reranker.with_first_stage(_mteb_candidates(task_copy, reranker, first_stage, depth) if by_lists else {})
    result = None if overwrite else _saved_mteb_result(task_copy, reranker, place)
    before = None
    if isinstance(first_stage, MtebFirstStage) and by_lists:
        before = _saved_mteb_result(task_copy, first_stage, place)
    seen = len(reranker.reports)
    if result is None:
        load_task(task_copy)
        if by_lists and first_stage is not None:
            before = _set_mteb_candidates(task_copy, place, first_stage, depth, overwrite=overwrite)
        result = _evaluate_unless_saved_by_mteb(task_copy, reranker, place, overwrite=overwrite)
    return TaskResult(
        task=task_copy.metadata.name,
        revision=reranker.mteb_model_meta.revision,
        main_score=task_copy.metadata.main_score,
        rows=tuple(_mteb_score_rows(result, before, reranker.reports[seen:])),
        path=_mteb_result_path(task_copy, reranker, place),
    )


def _mteb_candidates(task: Any, reranker: MtebReranker, first_stage: FirstStage | None, depth: int) -> dict[str, Any]:
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


def _set_mteb_candidates(task: Any, place: Path, first_stage: FirstStage, depth: int, *, overwrite: bool) -> Any:
    """Set the candidates of a retrieval task; return mteb's result for the first stage, None for saved predictions."""
    if isinstance(first_stage, MtebFirstStage):
        result, predictions = _run_mteb_first_stage(task, first_stage, place, overwrite=overwrite)
    else:
        result, predictions = None, predictions_file(first_stage, task.metadata.name)
    _convert_to_mteb_reranking(task, predictions, depth)
    return result


def describe_mteb_candidates(first_stage: FirstStage | None, depth: int, *, task: str = "") -> dict[str, Any]:
    """Return a description of the candidates, which becomes part of the revision of a reranker.

    Args:
        first_stage: First stage or predictions, as in `evaluate_mteb_task`.
        depth: Number of candidates per query.
        task: Task whose predictions in a folder are used; if empty, all predictions in the folder are used.

    Raises:
        DataError: There are no predictions, or they come from several models.
        MissingResourceError: There are no predictions for the task.
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
    makers = {json.dumps(_read_mteb_json(path).get("mteb_model_meta"), sort_keys=True) for path in files}
    if len(makers) > 1:
        raise DataError(
            f"The predictions in {first_stage} come from {len(makers)} models",
            expected="predictions of one model per folder",
        )
    meant = [predictions_file(source, task)] if task else files
    named = "".join(f"{path.name}\0{file_hash(path)}\n" for path in meant)
    content = hashlib.sha256(named.encode("utf-8", "surrogatepass")).hexdigest()
    return {**(json.loads(makers.pop()) or {}), "depth": depth, _CONTENT: content}


def _run_mteb_first_stage(task: Any, first_stage: MtebFirstStage, place: Path, *, overwrite: bool) -> tuple[Any, Path]:
    """Run the first stage unless its results are saved. Return its result and the file with all its predictions."""
    first_stage.drop_self = bool(task.ignore_identical_ids)
    meta = first_stage.mteb_model_meta
    folder = place / "predictions" / meta.model_name_as_path() / meta.revision
    path = folder / task.prediction_file_name
    reusable = path.is_file() and not overwrite and _covers_mteb_task(path, _mteb_result_path(task, first_stage, place))
    if not reusable:
        path.unlink(missing_ok=True)  # mteb would add predictions to an existing file
    result = _evaluate_unless_saved_by_mteb(task, first_stage, place, overwrite=not reusable, predictions=folder)
    return result, path


def _saved_mteb_result(task: Any, model: Any, place: Path) -> Any:
    """Return the saved result of a task; None if it does not exist or is incomplete. No data are loaded."""
    path = _mteb_result_path(task, model, place)
    _remove_truncated_mteb_result(path)
    if not path.is_file():
        return None
    saved = import_mteb().ResultCache(place).load_task_result(task.metadata.name, model.mteb_model_meta)
    return None if saved is None or saved.get_missing_evaluations(task) else saved


def _evaluate_unless_saved_by_mteb(
    task: Any, model: Any, place: Path, *, overwrite: bool, predictions: Path | None = None
) -> Any:
    """Return the saved result of a task if it is complete; otherwise evaluate the model and return the new result."""
    mteb = import_mteb()
    cache = mteb.ResultCache(place)
    _remove_truncated_mteb_result(_mteb_result_path(task, model, place))
    evaluation = mteb.evaluate(
        model,
        task,
        co2_tracker=False,
        encode_kwargs={"batch_size": 32, "show_progress_bar": False},
        cache=cache,
        overwrite_strategy="always" if overwrite else "only-missing",
        prediction_folder=predictions,
        show_progress_bar=False,
    )
    return evaluation.task_results[0]


def _mteb_result_path(task: Any, model: Any, place: Path) -> Path:
    return Path(import_mteb().ResultCache(place).get_task_result_path(task.metadata.name, model.mteb_model_meta))


def _copy_mteb_task(task: Any) -> Any:
    """Return a copy of a task whose candidates can be set without changing the original."""
    task_copy = copy.copy(task)
    if task_copy.data_loaded:
        task_copy.dataset = {
            subset: {split: dict(data) for split, data in splits.items()} for subset, splits in task.dataset.items()
        }
    return task_copy


def _convert_to_mteb_reranking(task: Any, predictions: Path, depth: int) -> None:
    missing = _missing_mteb_predictions(_read_mteb_json(predictions), task)
    if missing:
        raise DataError(
            f"{predictions} contains no predictions for {missing[0]}" + (" and others" if len(missing) > 1 else ""),
            expected="predictions for every evaluated subset and split",
            remedy="Run mteb.evaluate(encoder, task, prediction_folder=...) to completion",
        )
    task.convert_to_reranking(predictions, top_k=depth)


def _missing_mteb_predictions(saved: Mapping[str, Any], task: Any) -> list[str]:
    parts = [(subset, split) for subset in task.hf_subsets for split in task.eval_splits]
    return [
        f"{subset}, {split}"
        for subset, split in parts
        if not isinstance(_mteb_predictions_of_part(saved, subset, split), dict)
    ]


def _mteb_predictions_of_part(saved: Mapping[str, Any], subset: str, split: str) -> Any:
    splits = saved.get(subset)
    return splits.get(split) if isinstance(splits, dict) else None


def _covers_mteb_task(path: Path, result: Path) -> bool:
    """Return whether saved predictions are valid and cover every subset and split that has a saved score."""
    try:
        saved, scored = (
            _read_mteb_json(path),
            _read_mteb_json(result)["scores"] if result.is_file() else {},
        )
    except (DataError, KeyError):
        return False
    return all(
        _mteb_predictions_of_part(saved, row["hf_subset"], split) is not None
        for split, rows in scored.items()
        for row in rows
    )


def _read_mteb_json(path: Path) -> dict[str, Any]:
    return read_json_object(path, "file of predictions", expected="a JSON object saved by mteb")


def _remove_truncated_mteb_result(path: Path) -> None:
    """Remove the result file if it is truncated. An interrupted run can leave such a file, and mteb cannot read it."""
    if path.is_file():
        try:
            json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            path.unlink()


def _mteb_score_rows(result: Any, before: Any, reports: list[dict[str, Any]]) -> list[dict[str, Any]]:
    by_part = {(report["split"], report["subset"]): report for report in reports}
    earlier = _mteb_main_scores(before) if before is not None else {}
    keys = ("windows", "failure_rate", "calls", "reused_calls", "tokens_in", "tokens_out", "seconds", "folder")
    return [
        {
            "split": split,
            "subset": subset,
            "score": score,
            "first_stage_score": earlier.get((split, subset)),
            **{key: by_part[split, subset][key] for key in keys if (split, subset) in by_part},
        }
        for (split, subset), score in _mteb_main_scores(result).items()
    ]


def _mteb_main_scores(result: Any) -> dict[tuple[str, str], float]:
    return {
        (split, row["hf_subset"]): float(row["main_score"]) for split, rows in result.scores.items() for row in rows
    }
