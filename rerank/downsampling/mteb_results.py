"""Reader for mteb's result folders, which contain the scores of models on tasks.

A task may have several splits and subsets, and a model may have results for only some of them. A part is one subset of
one split. The means of two models are comparable only if they are computed over the same parts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from rerank.errors import DataError
from rerank.io.settings_files import read_json_object

#: Largest number of parts listed in a note.
_SHOWN = 5
#: Part of a task: split and subset.
_Part = tuple[str, str]
#: Result of a model on a task: model, task, score per part, path of the file.
_Result = tuple[str, str, Mapping[_Part, float], str]


def mean_scores_for_benchmark_reduction(folder: Path) -> tuple[list[tuple[str, str, str, float, str]], tuple[str, ...]]:
    """Return each model's main score per task, averaged over the splits and subsets that all models have.

    Models without any result for some task are ignored when these parts are determined, because such models are later
    excluded from the table.

    Returns:
        One tuple per result: model, task, an empty query, score and path of the file; and notes about omitted parts,
        one sentence per task.
    """
    results = _read_results_for_benchmark_reduction(folder)
    tasks = dict.fromkeys(task for _, task, _, _ in results)
    tasks_by_model: dict[str, set[str]] = {}
    for model, task, _, _ in results:
        tasks_by_model.setdefault(model, set()).add(task)
    complete = {model for model, own in tasks_by_model.items() if len(own) == len(tasks)} or set(tasks_by_model)
    cells, notes = [], []
    for task in tasks:
        results_of_task = [result for result in results if result[1] == task]
        complete_results = [result for result in results_of_task if result[0] in complete]
        common = _common_parts_for_benchmark_reduction(task, complete_results)
        omitted = sorted({part for result in complete_results for part in result[2]} - common)
        if omitted:
            notes.append(_omitted_parts_reduction_note(task, omitted, len(common)))
        for model, _, parts, path in results_of_task:
            # incomplete models are later excluded from the table, so their mean may be over any parts
            values = [parts[part] for part in sorted(common & parts.keys())] or list(parts.values())
            cells.append((model, task, "", sum(values) / len(values), path))
    return cells, tuple(notes)


def _common_parts_for_benchmark_reduction(task: str, results: Sequence[_Result]) -> set[_Part]:
    """Return the parts (pairs of split and subset) that are in all results."""
    common = set.intersection(*(set(parts) for _, _, parts, _ in results))
    if not common:
        raise DataError(
            f"The results of {len(results)} models on {task} have no split and subset in common",
            expected="at least one split and subset that all models have",
            remedy="Remove the results of the models that were evaluated on other splits or subsets",
        )
    return common


def _omitted_parts_reduction_note(task: str, omitted: Sequence[_Part], count: int) -> str:
    shown = ", ".join("/".join(part) for part in omitted[:_SHOWN])
    more = f" and {len(omitted) - _SHOWN} more" if len(omitted) > _SHOWN else ""
    return f"{task}: not all models have {shown}{more}; scores are means over the {count} parts that all have"


def _read_results_for_benchmark_reduction(folder: Path) -> list[_Result]:
    """Read all result files. A model with several revisions is treated as several models."""
    root = folder / "results" if (folder / "results").is_dir() else folder
    files = [path for path in sorted(root.glob("*/*/*.json")) if path.name != "model_meta.json"]
    revisions: dict[str, set[str]] = {}
    for path in files:
        revisions.setdefault(path.parent.parent.name, set()).add(path.parent.name)
    results: list[_Result] = []
    for path in files:
        model, revision = path.parent.parent.name, path.parent.name
        name = model.replace("__", "/", 1)
        task, parts = _read_result_for_benchmark_reduction(path)
        results.append((name if len(revisions[model]) == 1 else f"{name}@{revision}", task, parts, str(path)))
    return results


def _read_result_for_benchmark_reduction(path: Path) -> tuple[str, dict[_Part, float]]:
    result = read_json_object(path, "result", expected="a JSON object with task_name and scores, saved by mteb")
    try:
        task = str(result["task_name"])
        rows = [(str(split), row) for split, own in result["scores"].items() for row in own]
        scores = [((split, str(row["hf_subset"])), float(row["main_score"])) for split, row in rows]
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise DataError(
            f"{path} is not an MTEB result file ({error!r})", expected="a JSON object with task_name and scores"
        ) from error
    parts = dict(scores)
    if not parts:
        raise DataError(f"{path} contains no scores", expected="at least one split")
    if len(parts) < len(scores):
        raise DataError(f"{path} has two scores for a split and subset", expected="one score per split and subset")
    for part, score in scores:
        if not math.isfinite(score):
            raise DataError(f"{path}: the score of {'/'.join(part)} is {score!r}", expected="a finite number")
    return task, parts
