"""Table of scores of models on tasks, optionally per query, and a function that reads it.

Supported formats are CSV files with one row per model and one column per task; CSV or JSON lines with one score per
line (model, task, score and optionally query); JSON lines with a model and all its scores; mteb's result folders.
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

#: Names of columns and keys, by what they hold.
_KEYS = {
    "model": ("model", "system", "model_name", "run", ""),
    "task": ("task", "task_name"),
    "score": ("score", "value", "main_score"),
    "query": ("query", "query_id", "qid", "topic"),
}
#: One score: model, task, query (empty for a score of the whole task), value and location in the file.
_Cell = tuple[str, str, str, float, str]
#: Part of a task: split and subset.
_Part = tuple[str, str]
#: Largest number of parts listed in a note.
_SHOWN = 5


@dataclass(frozen=True, eq=False, kw_only=True)
class ScoreTable:
    """Scores of the same models on the same tasks."""

    models: tuple[str, ...]
    tasks: Mapping[str, Floats]  #: (queries, models) scores per task; a single row if per-query scores are unknown.
    queries: Mapping[str, tuple[str, ...]]  #: Query ids of the rows of each task; empty if they are unknown.
    left_out: tuple[str, ...] = ()  #: Models that were excluded because a score is missing.
    notes: tuple[str, ...] = ()  #: Notes about scores that were omitted.

    @property
    def by_query(self) -> bool:
        """True if per-query scores are known for all tasks."""
        return all(self.queries.values())

    @cached_property
    def means(self) -> Floats:
        """(tasks, models) mean score of each model on each task."""
        return np.stack([rows.mean(axis=0) for rows in self.tasks.values()])

    def rows(self, tasks: Sequence[str], *, unit: str) -> Floats:
        """Return the (rows, models) scores on some tasks, with one row per task or, as ``unit`` says, per query."""
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
        """Return the per-query scores on all tasks. If there are several tasks, a row is named ``task/query``."""
        values = self.rows(list(self.tasks), unit="query")
        several = len(self.tasks) > 1
        names = [f"{task}/{query}" if several else query for task, own in self.queries.items() for query in own]
        return ScoreMatrix(measure="", topics=tuple(names), systems=self.models, values=values)


def read_benchmark_table(path: str | Path, *, drop_incomplete: bool = False) -> ScoreTable:
    """Read scores in any of the supported formats, from a file, optionally gzipped, or a folder of mteb's results.

    In mteb's results, the score on a task is the mean over the splits and subsets that all models have. If other splits
    or subsets are omitted, the function warns and adds a note to the table. ``drop_incomplete`` excludes models that
    lack a score that another model has.

    Raises:
        MissingResourceError: The file does not exist.
        DataError: The format is unknown, a score occurs twice or is not a number, or scores are missing.
    """
    location = Path(path)
    notes: tuple[str, ...] = ()
    if location.is_dir():
        cells, notes = _mteb_means(location)
    else:
        with open_text_file(location) as stream:
            first = next((line for line in stream if line.strip()), "")
        is_json = first.lstrip().startswith("{")
        cells = [*(_read_json_lines(location) if is_json else _read_csv(location, "\t" if "\t" in first else ","))]
    if not cells:
        raise DataError(
            f"{path} contains no scores", expected="one row per model and one column per task, or one score per line"
        )
    for note in notes:
        warnings.warn(note, stacklevel=2)
    return replace(_tabulate(cells, str(path), drop_incomplete=drop_incomplete), notes=notes)


def _tabulate(cells: Sequence[_Cell], source: str, *, drop_incomplete: bool) -> ScoreTable:
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
    queries: dict[str, list[str]] = {}
    for task, query in columns:
        queries.setdefault(task, []).append(query)
    return ScoreTable(
        models=models,
        tasks={task: np.array([[scores[m][task, q] for m in models] for q in own]) for task, own in queries.items()},
        queries={task: tuple(own) if own != [""] else () for task, own in queries.items()},
        left_out=tuple(incomplete),
    )


def _read_csv(path: Path, delimiter: str) -> Iterable[_Cell]:
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
        yield from _cells(dict(zip(header, row, strict=True)), f"{path}, line {number}")


def _read_json_lines(path: Path) -> Iterable[_Cell]:
    with open_text_file(path) as stream:
        for number, line in enumerate(stream, 1):
            if not line.strip():
                continue
            where = f"{path}:{number}"
            row = parse_json(line, where)
            if not isinstance(row, dict):
                raise DataError(f"{where} contains a {type(row).__name__}", expected="one JSON object per line")
            nested = row.get("scores")
            model = {key: value for key, value in row.items() if key in _KEYS["model"]}
            yield from _cells({**model, **nested} if isinstance(nested, dict) else row, where)


def _cells(row: Mapping[str, Any], where: str) -> Iterable[_Cell]:
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
        return [(model, str(row[names["task"]]), query, _score(row[names["score"]], where), where)]
    wide = ((key, value) for key, value in row.items() if key != names["model"] and value not in ("", None))
    return [(model, key, "", _score(value, f"{where}, {key}"), where) for key, value in wide]


def _score(value: Any, where: str) -> float:
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise DataError(f"{where}: the score is {value!r}", expected="a finite number")
    return number


def _mteb_means(folder: Path) -> tuple[list[_Cell], tuple[str, ...]]:
    """Return each model's main score per task of mteb's results, averaged over the parts that all models have.

    Parts are splits and subsets. Models without any result for some task are ignored when these parts are determined,
    because such models are later excluded from the table. The second value has one sentence per task about omitted
    parts. A model with several revisions is treated as several models.
    """
    root = folder / "results" if (folder / "results").is_dir() else folder
    files = [path for path in sorted(root.glob("*/*/*.json")) if path.name != "model_meta.json"]
    revisions: dict[str, set[str]] = {}
    for path in files:
        revisions.setdefault(path.parent.parent.name, set()).add(path.parent.name)
    #: Score per part, with the path of the file, per task and model.
    results: dict[str, list[tuple[str, dict[_Part, float], str]]] = {}
    for path in files:
        model, revision = path.parent.parent.name, path.parent.name
        name = model.replace("__", "/", 1) + (f"@{revision}" if len(revisions[model]) > 1 else "")
        task, parts = _read_mteb_result(path)
        results.setdefault(task, []).append((name, parts, str(path)))
    models_by_task = [{name for name, _, _ in own} for own in results.values()]
    complete = set.intersection(*models_by_task) or set.union(*models_by_task) if results else set()
    cells, notes = [], []
    for task, own in results.items():
        of_complete = [set(parts) for name, parts, _ in own if name in complete]
        common = set.intersection(*of_complete)
        if not common:
            raise DataError(
                f"The results of {len(of_complete)} models on {task} have no split and subset in common",
                expected="at least one split and subset that all models have",
                remedy="Remove the results of the models that were evaluated on other splits or subsets",
            )
        if omitted := sorted(set.union(*of_complete) - common):
            shown = ", ".join("/".join(part) for part in omitted[:_SHOWN])
            more = f" and {len(omitted) - _SHOWN} more" if len(omitted) > _SHOWN else ""
            rest = f"scores are means over the {len(common)} parts that all have"
            notes.append(f"{task}: not all models have {shown}{more}; {rest}")
        for name, parts, source in own:
            # incomplete models are later excluded from the table, so their mean may be over any parts
            values = [parts[part] for part in sorted(common & parts.keys())] or list(parts.values())
            cells.append((name, task, "", sum(values) / len(values), source))
    return cells, tuple(notes)


def _read_mteb_result(path: Path) -> tuple[str, dict[_Part, float]]:
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
