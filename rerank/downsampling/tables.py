"""Scores of models on tasks, with or without those of single queries, from files. Knows no tests and no choice.

What is read: CSV with a row a model and a column a task; CSV or JSON lines with one score a line (model, task, score
and perhaps query); JSON lines with a model and its scores; a folder of results as mteb keeps them (`_mteb_results`).
"""

from __future__ import annotations

import csv
import json
import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from rerank.downsampling.mteb_results import mean_scores
from rerank.errors import DataError, UsageError
from rerank.evaluation import Matrix
from rerank.evaluation.significance.base import Floats
from rerank.io.text_files import open_text

_MODEL = ("model", "system", "model_name", "run", "")
_TASK = ("task", "task_name")
_SCORE = ("score", "value", "main_score")
_QUERY = ("query", "query_id", "qid", "topic")
#: A score: the model, the task, the query (empty for the task as a whole), the value and where it stood.
_Cell = tuple[str, str, str, float, str]


@dataclass(frozen=True, eq=False, kw_only=True)
class Table:
    """Scores of the same models on the same tasks.

    Attributes:
        models: Their names.
        tasks: Task -> (queries, models); one row where the scores of single queries are not known.
        queries: Task -> the rows' ids; empty where there is one row for the task as a whole.
        left_out: Models that lacked a score and were dropped.
        notes: What else is not in the scores, in sentences.
    """

    models: tuple[str, ...]
    tasks: Mapping[str, Floats]
    queries: Mapping[str, tuple[str, ...]]
    left_out: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def by_query(self) -> bool:
        """Whether the scores of single queries are known, for all tasks."""
        return all(self.queries.values())

    @cached_property
    def means(self) -> Floats:
        """(tasks, models)."""
        return np.stack([rows.mean(axis=0) for rows in self.tasks.values()])

    def rows(self, tasks: Sequence[str], *, unit: str) -> Floats:
        """(rows, models) of some tasks: a row a task, or a row a query.

        Raises:
            UsageError: Queries are asked for and not known.
        """
        if unit == "query":
            if not self.by_query:
                raise UsageError("unit=query for a table of tasks", expected="scores of single queries, or unit=task")
            return np.concatenate([self.tasks[task] for task in tasks])
        place = {task: at for at, task in enumerate(self.tasks)}
        return self.means[[place[task] for task in tasks]]

    def matrix(self) -> Matrix:
        """All queries of all tasks; a row is called by its query, or by task and query where there are several.

        Raises:
            UsageError: The scores of single queries are not known.
        """
        values = self.rows(list(self.tasks), unit="query")
        many = len(self.tasks) > 1
        names = [f"{task}/{query}" if many else query for task, own in self.queries.items() for query in own]
        return Matrix(measure="", topics=tuple(names), systems=self.models, values=values)


def read_table(path: str | Path, *, drop_incomplete: bool = False) -> Table:
    """Read scores; see the module for the forms.

    Args:
        path: A file, plain or gzipped, or a folder of mteb's results.
        drop_incomplete: Leave out models that lack a score that another has, instead of stopping.

    A task's score in mteb's results is the mean over the splits and subsets that all models have; that others were
    left out is a warning, and in the table's notes.

    Raises:
        MissingResourceError: There is no such file.
        DataError: Another form, a score twice, no number, or scores that are missing.
    """
    where = Path(path)
    cells, notes = mean_scores(where) if where.is_dir() else (list(_file(where)), ())
    if not cells:
        raise DataError(f"{path} holds no scores", expected="a row a model and a column a task, or a score a line")
    for note in notes:
        warnings.warn(note, stacklevel=2)
    return replace(_tabulated(cells, str(path), drop_incomplete=drop_incomplete), notes=notes)


def _tabulated(cells: Sequence[_Cell], source: str, *, drop_incomplete: bool) -> Table:
    found: dict[str, dict[tuple[str, str], float]] = {}
    for model, task, query, value, where in cells:
        own = found.setdefault(model, {})
        if (task, query) in own:
            raise DataError(f"{where}: a second score of {model!r} on {task} {query}".rstrip(), expected="one")
        own[task, query] = value
    wanted = list(dict.fromkeys((task, query) for _, task, query, _, _ in cells))
    mixed = {task for task, query in wanted if query} & {task for task, query in wanted if not query}
    if mixed:
        raise DataError(f"{source}: {min(mixed)} has scores with a query and without", expected="one or the other")
    lacking = [model for model, own in found.items() if len(own) < len(wanted)]
    if lacking and not drop_incomplete:
        hole = next(cell for cell in wanted if cell not in found[lacking[0]])
        raise DataError(
            f"{source}: {len(lacking)} of {len(found)} models lack scores, first {lacking[0]!r} on {' '.join(hole)}",
            expected="a score of every model on every task",
            remedy="Leave these models out with --drop-incomplete, or the tasks that they lack",
        )
    models = tuple(model for model in found if model not in lacking)
    if len(models) < 2:
        raise DataError(f"{source}: {len(models)} models have all scores", expected="at least two to compare")
    tasks: dict[str, list[str]] = {}
    for task, query in wanted:
        tasks.setdefault(task, []).append(query)
    return Table(
        models=models,
        tasks={t: np.array([[found[m][t, q] for m in models] for q in own]) for t, own in tasks.items()},
        queries={t: tuple(own) if own != [""] else () for t, own in tasks.items()},
        left_out=tuple(lacking),
    )


def _file(path: Path) -> Iterable[_Cell]:
    with open_text(path) as stream:
        first = next((line for line in stream if line.strip()), "")
    return _json_lines(path) if first.lstrip().startswith("{") else _csv(path, "\t" if "\t" in first else ",")


def _csv(path: Path, delimiter: str) -> Iterable[_Cell]:
    with open_text(path) as stream:
        reader = csv.reader(stream, delimiter=delimiter, strict=True)
        try:
            rows = [(reader.line_num, [cell.strip() for cell in row]) for row in reader if any(map(str.strip, row))]
        except csv.Error as error:
            raise DataError(f"{path}, line {reader.line_num}: {error}", expected="CSV, quotes in pairs") from error
    header = rows[0][1] if rows else []
    for number, row in rows[1:]:
        if len(row) != len(header):
            raise DataError(f"{path}, line {number}: {len(row)} columns", expected=f"{len(header)}, as the first line")
        yield from _cells(dict(zip(header, row, strict=True)), f"{path}, line {number}")


def _json_lines(path: Path) -> Iterable[_Cell]:
    with open_text(path) as stream:
        for number, line in enumerate(stream, 1):
            if line.strip():
                try:
                    row = json.loads(line)
                except ValueError as error:
                    raise DataError(f"{path}:{number}: {error}", expected="a JSON object a line") from error
                if not isinstance(row, dict):
                    raise DataError(f"{path}:{number}: a {type(row).__name__}", expected="a JSON object a line")
                nested = row.get("scores")
                model = {key: value for key, value in row.items() if key in _MODEL}
                yield from _cells({**model, **nested} if isinstance(nested, dict) else row, f"{path}:{number}")


def _cells(row: Mapping[str, Any], where: str) -> Iterable[_Cell]:
    """One line's scores: one, or one a task."""
    names = {kind: next((key for key in keys if key in row), None) for kind, keys in _KEYS.items()}
    if names["model"] is None:
        raise DataError(f"{where}: no model among {', '.join(row)}", expected="a column or key called model")
    model = str(row[names["model"]])
    if names["task"] is not None and names["score"] is not None:
        query = str(row[names["query"]]) if names["query"] is not None else ""
        return [(model, str(row[names["task"]]), query, _number(row[names["score"]], where), where)]
    wide = ((key, value) for key, value in row.items() if key != names["model"] and value not in ("", None))
    return [(model, key, "", _number(value, f"{where}, {key}"), where) for key, value in wide]


_KEYS = {"model": _MODEL, "task": _TASK, "query": _QUERY, "score": _SCORE}


def _number(value: Any, where: str) -> float:
    try:
        found = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        found = math.nan
    if not math.isfinite(found):
        raise DataError(f"{where}: {value!r}", expected="a finite number")
    return found
