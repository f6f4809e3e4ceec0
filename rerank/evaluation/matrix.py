"""Scores of many systems on the same topics, as one array; from measured runs or from a CSV file. Knows no tests."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from rerank.errors import DataError, UnknownNameError
from rerank.evaluation.scores import Scores
from rerank.evaluation.significance.base import DECIMALS
from rerank.io.text_files import open_text

_FORM = "a row of systems' names, then a row of scores a topic"
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
                raise DataError(
                    f"{len(names)} {kind}{'' if len(names) == 1 else 's'} to compare", expected=f"at least two {kind}s"
                )
            name, times = Counter(names).most_common(1)[0]
            if times > 1:
                raise DataError(f"Two {kind}s are called {name!r}", remedy="Give each another name")
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

    def deltas(self, a: str, b: str) -> npt.NDArray[np.float64]:
        """(topics,) scores of system ``a`` less those of system ``b``.

        Raises:
            UnknownNameError: No such system.
        """
        for name in (a, b):
            if name not in self.systems:
                raise UnknownNameError("system", name, self.systems)
        first, second = self.systems.index(a), self.systems.index(b)
        return np.round(self.values[:, first] - self.values[:, second], DECIMALS)

    @classmethod
    def from_scores(cls, scores: Sequence[Scores], measure: str) -> Matrix:
        """The values of one measure of runs that were measured on the same queries.

        Raises:
            UsageError: A run without that measure, or a measure without values query by query.
            DataError: Runs that were measured on different queries, or fewer than two runs or queries.
        """
        topics = scores[0].queries if scores else ()
        columns = []
        for entry in scores:
            row = entry.by_measure(measure)
            if row.keys() != set(topics):
                raise DataError(f"Run {entry.run!r} was measured on other queries than the first", expected="one qrels")
            columns.append([row[topic] for topic in topics])
        if len(topics) == 1:
            raise DataError("The runs have 1 judged query", expected="at least 2 to compare runs on")
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
    rows = _rows(path)
    if not rows:
        raise DataError(f"{path} is empty", expected=_FORM)
    (_, header), *scored = rows
    named = header[0].lower() in _TOPIC
    systems, topics, values = tuple(header[named:]), [], []
    if systems and all(map(_is_fraction, systems)):
        raise DataError(f"{path} begins with numbers, such as {systems[0]!r}", expected=_FORM)
    for at, (where, row) in enumerate(scored, 1):
        if len(row) != len(header):
            raise DataError(f"{where}: {len(row)} columns", expected=f"{len(header)}, as in the first line")
        topics.append(row[0] if named else str(at))
        values.append([_number(cell, where) for cell in row[named:]])
    shaped = np.array(values, dtype=np.float64).reshape(len(scored), len(systems))
    return Matrix(measure="", topics=tuple(topics), systems=systems, values=shaped)


def _rows(path: Path) -> list[tuple[str, list[str]]]:
    """Where each row stands, and its cells; empty lines are left out."""
    with open_text(path) as stream:
        first = next((line for line in stream if line.strip()), "")
    found = []
    with open_text(path) as stream:
        reader = csv.reader(stream, delimiter="\t" if "\t" in first else ",", strict=True)
        try:
            for row in reader:
                cells = [cell.strip() for cell in row]
                if cells not in ([], [""]):
                    found.append((f"{path}, line {reader.line_num}", cells))
        except csv.Error as error:
            raise DataError(f"{path}, line {reader.line_num}: {error}", expected="CSV, quotes in pairs") from error
    return found


def _number(cell: str, where: str) -> float:
    try:
        return float(cell)
    except ValueError as error:
        remedy = "A first column of topics' ids must be called topic or query"
        raise DataError(f"{where}: {cell!r}", expected="a number", remedy=remedy) from error


def _is_fraction(text: str) -> bool:
    """Whether it is a number that no system would be named by."""
    try:
        return not float(text).is_integer()
    except (ValueError, OverflowError):
        return False
