"""Table of scores of models on tasks, optionally per query, and a function that reads it.

Supported formats are CSV files with one row per model and one column per task; CSV or JSON lines with one score per
line (model, task, score and optionally query); JSON lines with a model and all its scores per line; and mteb's result
folders (`mteb_results`).

Reader for mteb's result folders, which contain the scores of models on tasks.
"""

from __future__ import annotations

import csv
import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from rerank.errors import DataError, UsageError
from rerank.evaluation import ScoreMatrix
from rerank.evaluation.significance.base import Floats
from rerank.io.json_records import parse_json
from rerank.io.settings_files import read_json_object
from rerank.io.text_files import open_text_file

_MODEL = ("model", "system", "model_name", "run", "")
_TASK = ("task", "task_name")
_SCORE = ("score", "value", "main_score")
_QUERY = ("query", "query_id", "qid", "topic")
#: One score: model, task, query (empty for a score of the whole task), value and location in the file.
_Cell = tuple[str, str, str, float, str]


@dataclass(frozen=True, eq=False, kw_only=True)
class ScoreTable:
    """Scores of the same models on the same tasks.

    Attributes:
        models: Names of the models.
        tasks: (queries, models) scores on each task. There is a single row if per-query scores are unknown.
        queries: Query ids of the rows of each task; empty if per-query scores are unknown.
        left_out: Models that were excluded because a score is missing.
        notes: Notes about scores that were omitted.
    """

    models: tuple[str, ...]
    tasks: Mapping[str, Floats]
    queries: Mapping[str, tuple[str, ...]]
    left_out: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def by_query(self) -> bool:
        """True if per-query scores are known for all tasks."""
        return all(self.queries.values())

    @cached_property
    def means(self) -> Floats:
        """(tasks, models) mean score of each model on each task."""
        return np.stack([rows.mean(axis=0) for rows in self.tasks.values()])

    def rows(self, tasks: Sequence[str], *, unit: str) -> Floats:
        """Return the (rows, models) scores on some tasks, with one row per task or per query, as ``unit`` says.

        Raises:
            UsageError: One row per query is requested, but per-query scores are unknown.
        """
        if unit == "query":
            if not self.by_query:
                raise UsageError(
                    "unit=query requires per-query scores, but the table contains one score per task",
                    expected="per-query scores, or unit=task",
                )
            return np.concatenate([self.tasks[task] for task in tasks])
        row = {task: index for index, task in enumerate(self.tasks)}
        return self.means[[row[task] for task in tasks]]

    def matrix(self) -> ScoreMatrix:
        """Return the per-query scores on all tasks. If there are several tasks, a row is named ``task/query``.

        Raises:
            UsageError: Per-query scores are unknown.
        """
        values = self.rows(list(self.tasks), unit="query")
        several = len(self.tasks) > 1
        names = [f"{task}/{query}" if several else query for task, own in self.queries.items() for query in own]
        return ScoreMatrix(measure="", topics=tuple(names), systems=self.models, values=values)


def read_benchmark_table(path: str | Path, *, drop_incomplete: bool = False) -> ScoreTable:
    """Read scores in any of the supported formats.

    In mteb's results, the score on a task is the mean over the splits and subsets that all models have. If other splits
    or subsets are omitted, the function warns and adds a note to the table.

    Args:
        path: A file, optionally gzipped, or a folder of mteb's results.
        drop_incomplete: Whether to exclude models that lack a score that another model has, instead of raising an
            error.

    Raises:
        MissingResourceError: The file does not exist.
        DataError: The format is unknown, a score occurs twice or is not a number, or scores are missing.
    """
    location = Path(path)
    cells, notes = (
        mean_scores_for_benchmark_reduction(location)
        if location.is_dir()
        else (list(_read_benchmark_file(location)), ())
    )
    if not cells:
        raise DataError(
            f"{path} contains no scores", expected="one row per model and one column per task, or one score per line"
        )
    for note in notes:
        warnings.warn(note, stacklevel=2)
    return replace(_tabulate_benchmark_scores(cells, str(path), drop_incomplete=drop_incomplete), notes=notes)


def _tabulate_benchmark_scores(cells: Sequence[_Cell], source: str, *, drop_incomplete: bool) -> ScoreTable:
    """Build the table from single scores, after checking that no score is duplicated or missing."""
    scores: dict[str, dict[tuple[str, str], float]] = {}
    for model, task, query, value, location in cells:
        model_scores = scores.setdefault(model, {})
        if (task, query) in model_scores:
            raise DataError(f"{location}: {model!r} has two scores on {task} {query}".rstrip(), expected="one score")
        model_scores[task, query] = value
    columns = list(dict.fromkeys((task, query) for _, task, query, _, _ in cells))
    mixed = {task for task, query in columns if query} & {task for task, query in columns if not query}
    if mixed:
        raise DataError(
            f"{source}: task {min(mixed)} has scores with and without a query",
            expected="only one of these kinds of scores",
        )
    incomplete = [model for model, model_scores in scores.items() if len(model_scores) < len(columns)]
    if incomplete and not drop_incomplete:
        missing = next(cell for cell in columns if cell not in scores[incomplete[0]])
        raise DataError(
            f"{source}: {len(incomplete)} of {len(scores)} models lack scores, such as {incomplete[0]!r} on "
            f"{' '.join(missing)}",
            expected="a score of every model on every task",
            remedy="Exclude these models with --drop-incomplete, or remove the tasks that they lack",
        )
    models = tuple(model for model in scores if model not in incomplete)
    if len(models) < 2:
        raise DataError(f"{source}: the number of models with all scores is {len(models)}", expected="at least 2")
    tasks: dict[str, list[str]] = {}
    for task, query in columns:
        tasks.setdefault(task, []).append(query)
    return ScoreTable(
        models=models,
        tasks={
            t: np.array([[scores[m][t, q] for m in models] for q in model_scores]) for t, model_scores in tasks.items()
        },
        queries={t: tuple(model_scores) if model_scores != [""] else () for t, model_scores in tasks.items()},
        left_out=tuple(incomplete),
    )


def _read_benchmark_file(path: Path) -> Iterable[_Cell]:
    """Read a file of scores. The first line determines its format."""
    with open_text_file(path) as stream:
        first = next((line for line in stream if line.strip()), "")
    return (
        _read_benchmark_json_lines(path)
        if first.lstrip().startswith("{")
        else _read_benchmark_csv(path, "\t" if "\t" in first else ",")
    )


def _read_benchmark_csv(path: Path, delimiter: str) -> Iterable[_Cell]:
    with open_text_file(path) as stream:
        reader = csv.reader(stream, delimiter=delimiter, strict=True)
        try:
            rows = [(reader.line_num, [cell.strip() for cell in row]) for row in reader if any(map(str.strip, row))]
        except csv.Error as error:
            raise DataError(f"{path}, line {reader.line_num}: {error}", expected="CSV with balanced quotes") from error
    header = rows[0][1] if rows else []
    for number, row in rows[1:]:
        if len(row) != len(header):
            raise DataError(
                f"{path}, line {number} has {len(row)} columns", expected=f"{len(header)} columns, as in the first line"
            )
        yield from _benchmark_cells(dict(zip(header, row, strict=True)), f"{path}, line {number}")


def _read_benchmark_json_lines(path: Path) -> Iterable[_Cell]:
    with open_text_file(path) as stream:
        for number, line in enumerate(stream, 1):
            if line.strip():
                row = parse_json(line, f"{path}:{number}")
                if not isinstance(row, dict):
                    raise DataError(
                        f"{path}:{number} contains a {type(row).__name__}", expected="one JSON object per line"
                    )
                nested = row.get("scores")
                model = {key: value for key, value in row.items() if key in _MODEL}
                yield from _benchmark_cells(
                    {**model, **nested} if isinstance(nested, dict) else row, f"{path}:{number}"
                )


def _benchmark_cells(row: Mapping[str, Any], where: str) -> Iterable[_Cell]:
    """Return the scores in one line of a file, which has either a single score or one score per task."""
    names = {kind: next((key for key in keys if key in row), None) for kind, keys in _KEYS.items()}
    if names["model"] is None:
        raise DataError(
            f"{where} contains no model; its columns or keys are {', '.join(row)}",
            expected="a column or key named model",
        )
    model = str(row[names["model"]])
    if names["task"] is not None and names["score"] is not None:
        query = str(row[names["query"]]) if names["query"] is not None else ""
        return [(model, str(row[names["task"]]), query, _benchmark_score(row[names["score"]], where), where)]
    wide = ((key, value) for key, value in row.items() if key != names["model"] and value not in ("", None))
    return [(model, key, "", _benchmark_score(value, f"{where}, {key}"), where) for key, value in wide]


_KEYS = {"model": _MODEL, "task": _TASK, "query": _QUERY, "score": _SCORE}


def _benchmark_score(value: Any, where: str) -> float:
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise DataError(f"{where}: the score is {value!r}", expected="a finite number")
    return number


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
