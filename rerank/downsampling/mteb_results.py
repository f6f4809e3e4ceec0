"""Scores of models on tasks from the folders in which mteb keeps results. Knows no table.

A task may have several splits and subsets, and a model results for some of them alone. Means are comparable only over
the same parts.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rerank.errors import DataError

#: How many parts a note names.
_SHOWN = 5
#: Split and subset.
_Part = tuple[str, str]
#: Model, task, score of every part, file.
_Result = tuple[str, str, Mapping[_Part, float], str]


def mean_scores(folder: Path) -> tuple[list[tuple[str, str, str, float, str]], tuple[str, ...]]:
    """Main scores, averaged for each task over the splits and subsets that all models have.

    Models that lack a task altogether do not count: they have no place in a table of all tasks.

    Returns:
        Model, task, an empty query, score and file of each result; and what was left out, a sentence a task.

    Raises:
        DataError: A file is no result of mteb, or a task has no part that all models have.
    """
    results = _results(folder)
    tasks = dict.fromkeys(task for _, task, _, _ in results)
    had: dict[str, set[str]] = {}
    for model, task, _, _ in results:
        had.setdefault(model, set()).add(task)
    complete = {model for model, own in had.items() if len(own) == len(tasks)} or set(had)
    cells, notes = [], []
    for task in tasks:
        own = [one for one in results if one[1] == task]
        counted = [one for one in own if one[0] in complete]
        common = _common(task, counted)
        left = sorted({part for one in counted for part in one[2]} - common)
        if left:
            notes.append(_note(task, left, len(common)))
        for model, _, parts, where in own:
            # a model that lacks a task has no place in the table, whatever its mean is of
            values = [parts[part] for part in sorted(common & parts.keys())] or list(parts.values())
            cells.append((model, task, "", sum(values) / len(values), where))
    return cells, tuple(notes)


def _common(task: str, results: Sequence[_Result]) -> set[_Part]:
    found = set.intersection(*(set(parts) for _, _, parts, _ in results))
    if not found:
        raise DataError(
            f"The results of {len(results)} models on {task} have no split and subset in common",
            expected="at least one that all models have",
            remedy="Take out the results of the models that were measured on other parts",
        )
    return found


def _note(task: str, left: Sequence[_Part], kept: int) -> str:
    shown = ", ".join("/".join(part) for part in left[:_SHOWN])
    more = f" and {len(left) - _SHOWN} more" if len(left) > _SHOWN else ""
    return f"{task}: not all models have {shown}{more}; the scores are means over the {kept} parts that all have"


def _results(folder: Path) -> list[_Result]:
    """All result files; a model with several revisions is several models."""
    root = folder / "results" if (folder / "results").is_dir() else folder
    files = [path for path in sorted(root.glob("*/*/*.json")) if path.name != "model_meta.json"]
    revisions: dict[str, set[str]] = {}
    for path in files:
        revisions.setdefault(path.parent.parent.name, set()).add(path.parent.name)
    found: list[_Result] = []
    for path in files:
        model, revision = path.parent.parent.name, path.parent.name
        name = model.replace("__", "/", 1)
        task, parts = _read(path)
        found.append((name if len(revisions[model]) == 1 else f"{name}@{revision}", task, parts, str(path)))
    return found


def _read(path: Path) -> tuple[str, dict[_Part, float]]:
    try:
        result: Any = json.loads(path.read_text(encoding="utf-8"))
        task = str(result["task_name"])
        rows = [(str(split), row) for split, own in result["scores"].items() for row in own]
        scores = [((split, str(row["hf_subset"])), float(row["main_score"])) for split, row in rows]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path} is no result of mteb ({error!r})", expected="task_name and scores") from error
    parts = dict(scores)
    if not parts:
        raise DataError(f"{path} holds no score", expected="at least one split")
    if len(parts) < len(scores):
        raise DataError(f"{path} has a split and subset twice", expected="one score of each")
    for part, score in scores:
        if not math.isfinite(score):
            raise DataError(f"{path}, {'/'.join(part)}: {score!r}", expected="a finite number")
    return task, parts
