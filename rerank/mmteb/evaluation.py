"""Two stages over mteb's tasks: lists of a first stage, reranked and scored by mteb, in mteb's folders.

    OUT/results/ORG__MODEL/REVISION/TASK.json     mteb's results, of the reranker and of the first stage
    OUT/predictions/ORG__MODEL/REVISION/TASK_predictions.json   the first stage's lists
    OUT/runs/MODEL-REVISION/TASK/SUBSET.SPLIT/    our run folders: calls, failures, tokens

Knows the order of things and these places; scores are mteb's.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rerank.collections.mteb import predictions_file
from rerank.collections.mteb.library import check_task, import_mteb, load_task
from rerank.errors import DataError, UsageError
from rerank.io.file_hashes import file_hash
from rerank.mmteb.first_stage import MtebFirstStage
from rerank.mmteb.reranker import MtebReranker

#: Where the lists of retrieval tasks come from: one of our first stages, or predictions that mteb saved.
FirstStage = MtebFirstStage | str | Path
#: Where `describe_lists` says what predictions hold.
_CONTENT = "predictions"


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskResult:
    """What came of one task.

    Attributes:
        task: Its name.
        revision: The reranker's, over the lists of this task; see `evaluate`.
        main_score: Name of the score that counts.
        rows: For every split and subset: the score, the first stage's if it was measured here, and what the reranking
            took and how its windows went, if this process asked.
        path: mteb's result file.
    """

    task: str
    revision: str
    main_score: str
    rows: tuple[Mapping[str, Any], ...]
    path: Path


def evaluate(
    task: Any,
    reranker: MtebReranker,
    *,
    out: str | Path,
    first_stage: FirstStage | None = None,
    depth: int = 100,
    overwrite: bool = False,
) -> TaskResult:
    """Rerank a task and let mteb score it; what is scored already is read from its file.

    The revision follows what the task's result depends on: for a retrieval task the lists of the first stage, the
    file of its own predictions alone where there are several; for a task with lists of its own no first stage.

    Args:
        task: One of mteb's tasks. It is not changed.
        reranker: See `MtebReranker`.
        out: The folder of all results.
        first_stage: For retrieval tasks: one of ours, or predictions that ``mteb.evaluate`` saved (their file or
            folder). Reranking tasks bring their own lists.
        depth: How many documents of each list of a first stage are reranked.
        overwrite: Score again what is scored.

    Raises:
        UsageError: The reranker's revision is one of other lists.
        DataError: A retrieval task without a first stage, or predictions that do not fit.
        MissingResourceError: The task's data cannot be loaded.
        PartialFailureError: Calls got no reply; those that did are kept.
    """
    place = Path(out)
    mine = _own_copy(check_task(task))
    by_lists = mine.metadata.type == "Retrieval"
    reranker = reranker.over(_checked_lists(mine, reranker, first_stage, depth) if by_lists else {})
    result = None if overwrite else _known(mine, reranker, place)
    before = _known(mine, first_stage, place) if isinstance(first_stage, MtebFirstStage) and by_lists else None
    seen = len(reranker.reports)
    if result is None:
        load_task(mine)
        if by_lists and first_stage is not None:
            before = _listed(mine, place, first_stage, depth, overwrite=overwrite)
        result = _scored(mine, reranker, place, overwrite=overwrite)
    return TaskResult(
        task=mine.metadata.name,
        revision=reranker.mteb_model_meta.revision,
        main_score=mine.metadata.main_score,
        rows=tuple(_rows(result, before, reranker.reports[seen:])),
        path=_result_path(mine, reranker, place),
    )


def _checked_lists(task: Any, reranker: MtebReranker, first_stage: FirstStage | None, depth: int) -> dict[str, Any]:
    """What is said of a retrieval task's lists, once they are seen to be there and to be those of the reranker."""
    if first_stage is None:
        raise DataError(
            f"{task.metadata.name} is a retrieval task: it brings no lists to rerank",
            expected="a first stage, or the predictions of one",
            remedy="Pass --first-stage bm25, or the folder of predictions that mteb saved",
        )
    lists = describe_lists(first_stage, depth, task=task.metadata.name)
    # the folder of predictions grows from task to task, so its content is not compared
    if {**reranker.first_stage, _CONTENT: ""} != {**lists, _CONTENT: ""}:
        raise UsageError(
            f"The reranker was made for lists of {reranker.first_stage or 'no first stage'}, and these are of {lists}",
            remedy="MtebReranker(..., first_stage=lists_from(first_stage, depth))",
        )
    return lists


def _listed(task: Any, place: Path, first_stage: FirstStage, depth: int, *, overwrite: bool) -> Any:
    """Give a retrieval task the lists of its first stage; return mteb's result of that, if it is one of ours."""
    if isinstance(first_stage, MtebFirstStage):
        result, predictions = _first(task, first_stage, place, overwrite=overwrite)
    else:
        result, predictions = None, predictions_file(first_stage, task.metadata.name)
    _convert(task, predictions, depth)
    return result


def describe_lists(first_stage: FirstStage | None, depth: int, *, task: str = "") -> dict[str, Any]:
    """What a reranker's revision says of where its lists come from, and of what they are.

    Args:
        first_stage: See `evaluate`.
        depth: How many documents of each list.
        task: For a folder of predictions: the task whose lists are meant; all that are there if empty.

    Raises:
        DataError: No predictions, or those of several models.
        MissingResourceError: None for the task.
    """
    if first_stage is None:
        return {}
    if isinstance(first_stage, MtebFirstStage):
        meta = first_stage.mteb_model_meta
        return {"model": meta.name, "revision": meta.revision, "depth": depth}
    found = Path(first_stage)
    files = sorted(found.glob("*_predictions.json")) if found.is_dir() else [found]
    if not files:
        raise DataError(f"{first_stage} holds no predictions", expected="files named TASK_predictions.json")
    makers = {json.dumps(_saved(path).get("mteb_model_meta"), sort_keys=True) for path in files}
    if len(makers) > 1:
        raise DataError(
            f"The predictions in {first_stage} are those of {len(makers)} models", expected="one model's in a folder"
        )
    meant = [predictions_file(found, task)] if task else files
    named = "".join(f"{path.name}\0{file_hash(path)}\n" for path in meant)
    content = hashlib.sha256(named.encode("utf-8", "surrogatepass")).hexdigest()
    return {**(json.loads(makers.pop()) or {}), "depth": depth, _CONTENT: content}


def _first(task: Any, first_stage: MtebFirstStage, place: Path, *, overwrite: bool) -> tuple[Any, Path]:
    """The first stage's own result, and the file with its lists, for all parts."""
    first_stage.drop_self = bool(task.ignore_identical_ids)
    meta = first_stage.mteb_model_meta
    folder = place / "predictions" / meta.model_name_as_path() / meta.revision
    path = folder / task.prediction_file_name
    kept = path.is_file() and not overwrite and _covers(path, _result_path(task, first_stage, place))
    if not kept:
        path.unlink(missing_ok=True)  # mteb adds to what is there
    result = _scored(task, first_stage, place, overwrite=not kept, predictions=folder)
    return result, path


def _known(task: Any, model: Any, place: Path) -> Any:
    """Mteb's result of one task, if its file is there with all parts of it, else None. Loads no data."""
    path = _result_path(task, model, place)
    _drop_torn(path)
    if not path.is_file():
        return None
    found = import_mteb().ResultCache(place).load_task_result(task.metadata.name, model.mteb_model_meta)
    return None if found is None or found.get_missing_evaluations(task) else found


def _scored(task: Any, model: Any, place: Path, *, overwrite: bool, predictions: Path | None = None) -> Any:
    """What mteb finds of one task: from its file where all parts are there, else measured."""
    mteb = import_mteb()
    cache = mteb.ResultCache(place)
    _drop_torn(_result_path(task, model, place))
    found = mteb.evaluate(
        model,
        task,
        co2_tracker=False,
        encode_kwargs={"batch_size": 32, "show_progress_bar": False},
        cache=cache,
        overwrite_strategy="always" if overwrite else "only-missing",
        prediction_folder=predictions,
        show_progress_bar=False,
    )
    return found.task_results[0]


def _result_path(task: Any, model: Any, place: Path) -> Path:
    return Path(import_mteb().ResultCache(place).get_task_result_path(task.metadata.name, model.mteb_model_meta))


def _own_copy(task: Any) -> Any:
    """A copy that can be given lists without changing the task that others hold."""
    mine = copy.copy(task)
    if mine.data_loaded:
        mine.dataset = {
            subset: {split: dict(data) for split, data in splits.items()} for subset, splits in task.dataset.items()
        }
    return mine


def _convert(task: Any, predictions: Path, depth: int) -> None:
    missing = _lacking(_saved(predictions), task)
    if missing:
        raise DataError(
            f"{predictions} holds no predictions for {missing[0]}" + (" and others" if len(missing) > 1 else ""),
            expected="lists for every subset and split that is evaluated",
            remedy="Let mteb.evaluate(encoder, task, prediction_folder=...) run to its end",
        )
    task.convert_to_reranking(predictions, top_k=depth)


def _lacking(saved: Mapping[str, Any], task: Any) -> list[str]:
    parts = [(subset, split) for subset in task.hf_subsets for split in task.eval_splits]
    return [f"{subset}, {split}" for subset, split in parts if not isinstance(_part(saved, subset, split), dict)]


def _part(saved: Mapping[str, Any], subset: str, split: str) -> Any:
    splits = saved.get(subset)
    return splits.get(split) if isinstance(splits, dict) else None


def _covers(path: Path, result: Path) -> bool:
    """Whether predictions can be added to: they are whole, and hold all parts that have a score already."""
    try:
        saved, scored = _saved(path), _saved(result)["scores"] if result.is_file() else {}
    except (DataError, KeyError):
        return False
    return all(_part(saved, row["hf_subset"], split) is not None for split, rows in scored.items() for row in rows)


def _saved(path: Path) -> dict[str, Any]:
    try:
        saved = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as predictions: {error}", expected="JSON that mteb saved") from error
    if not isinstance(saved, dict):
        raise DataError(f"{path} holds a {type(saved).__name__}", expected="a JSON object that mteb saved")
    return saved


def _drop_torn(path: Path) -> None:
    """Remove a result of which a kill left half: mteb writes in place, and would stop at it for ever."""
    if path.is_file():
        try:
            json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            path.unlink()


def _rows(result: Any, before: Any, reports: list[dict[str, Any]]) -> list[dict[str, Any]]:
    told = {(report["split"], report["subset"]): report for report in reports}
    earlier = _main_scores(before) if before is not None else {}
    keys = ("windows", "failure_rate", "calls", "reused_calls", "tokens_in", "tokens_out", "seconds", "folder")
    return [
        {
            "split": split,
            "subset": subset,
            "score": score,
            "first_stage_score": earlier.get((split, subset)),
            **{key: told[split, subset][key] for key in keys if (split, subset) in told},
        }
        for (split, subset), score in _main_scores(result).items()
    ]


def _main_scores(result: Any) -> dict[tuple[str, str], float]:
    return {
        (split, row["hf_subset"]): float(row["main_score"]) for split, rows in result.scores.items() for row in rows
    }
