"""Scores of many systems on the same topics, as one array; from measured runs or from a CSV file. Knows no tests."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from rerank.errors import DataError, UsageError
from rerank.evaluation.scores import Scores
from rerank.textfiles import open_text

#: What the column of topic ids may be called; an empty name will do too.
_TOPIC = ("", "topic", "topic_id", "query", "query_id", "qid")


@dataclass(frozen=True, eq=False, kw_only=True)
class Matrix:
    """A topic x system matrix of one measure.

    Guarantees: two or more topics and systems, names that do not repeat, finite values.

    Attributes:
        measure: What was measured; empty if unknown.
        topics: Their ids.
        systems: Their names.
        values: (topics, systems).
    """

    measure: str
    topics: tuple[str, ...]
    systems: tuple[str, ...]
    values: npt.NDArray[np.float64]

    def __post_init__(self) -> None:
        """Check the invariants."""
        for kind, names in (("system", self.systems), ("topic", self.topics)):
            if len(names) < 2:
                raise DataError(f"{len(names)} {kind} to compare", expected=f"at least two {kind}s")
            if repeated := next((name for name in names if names.count(name) > 1), None):
                raise DataError(f"Two {kind}s are called {repeated!r}", remedy="Give each another name")
        if self.values.shape != (len(self.topics), len(self.systems)):
            raise DataError(
                f"Scores of shape {self.values.shape}", expected=f"{len(self.topics)} x {len(self.systems)}"
            )
        if not np.isfinite(self.values).all():
            topic, system = map(int, np.argwhere(~np.isfinite(self.values))[0])
            raise DataError(
                f"System {self.systems[system]!r} scores {self.values[topic, system]} on topic {self.topics[topic]!r}",
                expected="a finite number",
            )

    @classmethod
    def from_scores(cls, scores: Sequence[Scores], measure: str) -> Matrix:
        """The values of one measure of runs that were measured on the same queries.

        Raises:
            UsageError: A run without that measure.
            DataError: Runs that were measured on different queries, or fewer than two runs or queries.
        """
        topics = scores[0].queries if scores else ()
        columns = []
        for entry in scores:
            row = entry.values.get(measure)
            if row is None:
                raise UsageError(f"Run {entry.run!r} has no {measure}", expected=f"one of: {', '.join(entry.measures)}")
            if row.keys() != set(topics):
                raise DataError(f"Run {entry.run!r} was measured on other queries than the first", expected="one qrels")
            columns.append([row[topic] for topic in topics])
        values = np.array(columns, dtype=np.float64).reshape(len(columns), len(topics)).T
        return cls(measure=measure, topics=topics, systems=tuple(entry.run for entry in scores), values=values)


def read_matrix(path: str | Path) -> Matrix:
    """Read a topic x system matrix: CSV, or tab-separated, with the systems' names in the first row; gzip too.

    Args:
        path: The file. If its first column is called topic, query, qid or nothing, it holds the topics' ids; otherwise
            topics are numbered from 1.

    Raises:
        MissingResourceError: The file is not there.
        DataError: It is empty, or a row has other columns than the first, or something that is no finite number.
    """
    path = Path(path)
    with open_text(path) as stream:
        lines = [(number, line) for number, line in enumerate(stream, 1) if line.strip()]
    if not lines:
        raise DataError(f"{path} is empty", expected="a row of systems' names, then a row of scores a topic")
    separator = "\t" if "\t" in lines[0][1] else ","
    header, *rows = csv.reader((line for _, line in lines), delimiter=separator)
    named = header[0].strip().lower() in _TOPIC
    topics = [row[0].strip() if named else str(at) for at, row in enumerate(rows, 1)]
    values = []
    for (line, _), row in zip(lines[1:], rows, strict=True):
        where = f"{path}, line {line}"
        if len(row) != len(header):
            raise DataError(f"{where}: {len(row)} columns", expected=f"{len(header)}, as in the first line")
        values.append([_number(cell, where) for cell in row[named:]])
    return Matrix(
        measure="",
        topics=tuple(topics),
        systems=tuple(name.strip() for name in header[named:]),
        values=np.array(values, dtype=np.float64).reshape(len(rows), len(header) - named),
    )


def _number(cell: str, where: str) -> float:
    try:
        return float(cell)
    except ValueError as error:
        raise DataError(f"{where}: {cell!r}", expected="a number") from error
