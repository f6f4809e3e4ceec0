"""The matrix of scores of several systems on the same topics, built from evaluated runs or read from a CSV file."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from rerank.errors import DataError, UnknownNameError
from rerank.evaluation.scores import Scores
from rerank.evaluation.significance.base import DECIMALS
from rerank.io.text_files import open_text_file

_FORM = "a header with the names of the systems, then one row of scores per topic"
#: Accepted names of the column that holds the topic ids.
_TOPIC = ("", "topic", "topic_id", "query", "query_id", "qid")


@dataclass(frozen=True, eq=False, kw_only=True)
class ScoreMatrix:
    """Scores of systems on topics by one measure.

    Guarantees: at least two topics and two systems, unique names, finite values.

    Attributes:
        measure: Name of the measure; empty if unknown.
        topics: Topic ids.
        systems: Names of the systems.
        values: (topics, systems) scores.
    """

    measure: str
    topics: tuple[str, ...]
    systems: tuple[str, ...]
    values: npt.NDArray[np.float64]

    def __post_init__(self) -> None:
        """Check that names are unique, the shape matches, and all scores are finite."""
        for kind, names in (("system", self.systems), ("topic", self.topics)):
            if len(names) < 2:
                raise DataError(
                    f"The matrix contains {len(names)} {kind}{'' if len(names) == 1 else 's'}",
                    expected=f"at least two {kind}s",
                )
            name, times = Counter(names).most_common(1)[0]
            if times > 1:
                raise DataError(f"Two {kind}s are named {name!r}", remedy=f"Give each {kind} a different name")
        if self.values.shape != (len(self.topics), len(self.systems)):
            raise DataError(
                f"The scores have shape {self.values.shape}", expected=f"({len(self.topics)}, {len(self.systems)})"
            )
        if not np.isfinite(self.values).all():
            topic, system = map(int, np.argwhere(~np.isfinite(self.values))[0])
            raise DataError(
                f"System {self.systems[system]!r} scores {self.values[topic, system]} on topic {self.topics[topic]!r}",
                expected="a finite number",
            )

    def deltas(self, a: str, b: str) -> npt.NDArray[np.float64]:
        """Return an array of shape (topics,): the score of system ``a`` minus the score of system ``b``.

        Raises:
            UnknownNameError: A system does not exist.
        """
        for name in (a, b):
            if name not in self.systems:
                raise UnknownNameError("system", name, self.systems)
        first, second = self.systems.index(a), self.systems.index(b)
        return np.round(self.values[:, first] - self.values[:, second], DECIMALS)

    def without(self, systems: Collection[str]) -> ScoreMatrix:
        """Return the matrix without the named systems."""
        kept = [index for index, system in enumerate(self.systems) if system not in systems]
        return replace(self, systems=tuple(self.systems[index] for index in kept), values=self.values[:, kept])

    def to_scores(self) -> list[Scores]:
        """Return the scores of every system. The measure is named ``score`` if its name is unknown."""
        name = self.measure or "score"
        return [
            Scores(run=system, values={name: dict(zip(self.topics, map(float, column), strict=True))})
            for system, column in zip(self.systems, self.values.T, strict=True)
        ]

    @classmethod
    def from_scores(cls, scores: Sequence[Scores], measure: str) -> ScoreMatrix:
        """Build the matrix of one measure from the scores of runs.

        Raises:
            UsageError: The scores of a run do not include the measure, or the measure has no per-query values.
            DataError: The runs were evaluated on different queries, or there are fewer than two runs or queries.
        """
        topics = scores[0].queries if scores else ()
        columns = []
        for entry in scores:
            row = entry.by_measure(measure)
            if row.keys() != set(topics):
                raise DataError(
                    f"Run {entry.run!r} was evaluated on other queries than {scores[0].run!r}",
                    expected="runs evaluated with the same judgments",
                )
            columns.append([row[topic] for topic in topics])
        if len(topics) == 1:
            raise DataError(f"The runs have 1 judged query, {topics[0]!r}", expected="at least 2 to compare runs")
        values = np.array(columns, dtype=np.float64).reshape(len(columns), len(topics)).T
        return cls(measure=measure, topics=topics, systems=tuple(entry.run for entry in scores), values=values)


def read_score_matrix(path: str | Path) -> ScoreMatrix:
    """Read a topic x system matrix from a CSV or tab-separated file, optionally gzipped.

    Args:
        path: The file, with the names of the systems in its first row. If the first column is named topic, topic_id,
            query, query_id or qid, or has an empty name, it holds the topic ids. Otherwise topics are numbered from 1.

    Raises:
        MissingResourceError: The file does not exist.
        DataError: The file is empty, a row does not match the header, a score is not a finite number, a name occurs
            twice, or there are fewer than two topics or systems.
    """
    path = Path(path)
    lines = _read_evaluation_matrix_rows(path)
    if not lines:
        raise DataError(f"{path} is empty", expected=_FORM)
    (_, header), *rows = lines
    has_ids = header[0].lower() in _TOPIC
    systems, topics, columns = tuple(header[has_ids:]), [], []
    if systems and all(map(_is_fractional_measure_value, systems)):
        raise DataError(f"The first line of {path} contains numbers, such as {systems[0]!r}", expected=_FORM)
    for number, (where, row) in enumerate(rows, 1):
        if len(row) != len(header):
            raise DataError(f"{where} has {len(row)} columns", expected=f"{len(header)} columns, as in the first line")
        topics.append(row[0] if has_ids else str(number))
        columns.append([_parse_evaluation_matrix_score(cell, where) for cell in row[has_ids:]])
    values = np.array(columns, dtype=np.float64).reshape(len(rows), len(systems))
    return ScoreMatrix(measure="", topics=tuple(topics), systems=systems, values=values)


def _read_evaluation_matrix_rows(path: Path) -> list[tuple[str, list[str]]]:
    """Return the location (file and line number) and the cells of each row that is not empty."""
    with open_text_file(path) as stream:
        first = next((line for line in stream if line.strip()), "")
    rows = []
    with open_text_file(path) as stream:
        reader = csv.reader(stream, delimiter="\t" if "\t" in first else ",", strict=True)
        try:
            for row in reader:
                cells = [cell.strip() for cell in row]
                if cells not in ([], [""]):
                    rows.append((f"{path}, line {reader.line_num}", cells))
        except csv.Error as error:
            raise DataError(f"{path}, line {reader.line_num}: {error}", expected="CSV with balanced quotes") from error
    return rows


def _parse_evaluation_matrix_score(cell: str, where: str) -> float:
    try:
        return float(cell)
    except ValueError as error:
        remedy = "If the first column holds topic ids, name it topic or query"
        raise DataError(f"{where} contains {cell!r}", expected="a number", remedy=remedy) from error


def _is_fractional_measure_value(text: str) -> bool:
    """Return whether the text is a number with decimals, which is not a plausible name of a system."""
    try:
        return not float(text).is_integer()
    except (ValueError, OverflowError):
        return False
