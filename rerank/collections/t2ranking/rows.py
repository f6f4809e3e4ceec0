"""The rows of T2Ranking's files that are not documents: judgments with and without grades, candidate lists.

Knows the columns, not which file belongs to which task.
"""

from __future__ import annotations

import math
from collections.abc import Container, Iterator
from pathlib import Path

from rerank.errors import DataError, shorten
from rerank.io.numbered_rows import is_whole, whole
from rerank.io.text_files import open_text

#: The grades of T2Ranking: 0 to 3.
GRADES = range(4)
#: The lowest grade of what retrieval counts as a positive.
POSITIVE = 2
#: The passage that fills lists up to their length.
_PAD = "0"

#: Query -> what its list holds, best first: passage, and score if there is one.
Lists = dict[str, list[tuple[str, float | None]]]


def read_grades(path: Path) -> dict[str, dict[str, int]]:
    """Judgments with grades: query, anything, passage, grade.

    Raises:
        DataError: A row has other columns or another grade, or contradicts one above it.
    """
    table: dict[str, dict[str, int]] = {}
    for where, fields in _rows(path):
        if len(fields) != 4 or not is_whole(fields[3]) or int(float(fields[3])) not in GRADES:
            raise DataError(
                f"{where}: {shorten(' '.join(fields))}", expected="query, 0, passage and a grade from 0 to 3"
            )
        grade = int(float(fields[3]))
        judged = table.setdefault(whole(fields[0], "query", where), {})
        passage = whole(fields[2], "passage", where)
        if judged.setdefault(passage, grade) != grade:
            raise DataError(
                f"{where}: passage {passage} has grade {grade} here and {judged[passage]} above",
                expected="one grade for each",
            )
    return table


def read_positives(path: Path) -> dict[str, dict[str, int]]:
    """Judgments without grades: query, passage. Each has grade 1.

    Raises:
        DataError: A row has other columns.
    """
    table: dict[str, dict[str, int]] = {}
    for where, fields in _rows(path):
        if len(fields) != 2:
            raise DataError(f"{where}: {len(fields)} columns", expected="2: query and passage")
        table.setdefault(whole(fields[0], "query", where), {})[whole(fields[1], "passage", where)] = 1
    return table


def read_lists(path: Path, queries: Container[str], depth: int, *, has_zero: bool) -> Lists:
    """Candidate lists: query, passage, rank from 0 or 1, and maybe a score; any white space; numbers may be floats.

    Rows of passage 0 fill a list up. Where there is such a passage, the first of them in a list is a candidate.

    Args:
        path: The file.
        queries: Whose lists are wanted; the rest of the file is passed over.
        depth: How far down they are.
        has_zero: Whether the collection has a passage 0.

    Returns:
        A list for each of the queries that has one, by rank.

    Raises:
        DataError: A row has other columns or no whole number as rank, or a list has a rank or a passage twice.
    """
    found: dict[str, dict[int, tuple[str, float | None]]] = {}
    for where, fields in _rows(path):
        query = whole(fields[0], "query", where)
        if query not in queries:
            continue
        if len(fields) not in (3, 4) or not is_whole(fields[2]):
            raise DataError(f"{where}: {shorten(' '.join(fields))}", expected="query, passage, rank, and maybe a score")
        rank = int(float(fields[2]))
        if rank > depth:
            continue
        passage = whole(fields[1], "passage", where)
        ranked = found.setdefault(query, {})
        if rank in ranked:
            raise DataError(f"{where}: query {query} has rank {rank} twice", expected="each rank once")
        ranked[rank] = (passage, _score(fields[3], where) if len(fields) == 4 else None)
    return {query: _without_pads(query, ranked, path, has_zero)[:depth] for query, ranked in found.items()}


def _without_pads(
    query: str, ranked: dict[int, tuple[str, float | None]], path: Path, has_zero: bool
) -> list[tuple[str, float | None]]:
    kept: dict[str, float | None] = {}
    for rank in sorted(ranked):
        passage, score = ranked[rank]
        if passage == _PAD and (not has_zero or passage in kept):
            continue
        if passage in kept:
            raise DataError(f"{path}: query {query} has passage {passage} twice", expected="each passage once")
        kept[passage] = score
    return list(kept.items())


def _score(text: str, where: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise DataError(f"{where}: score {shorten(text)}", expected="a finite number")
    return value


def _rows(path: Path) -> Iterator[tuple[str, list[str]]]:
    """The columns of each line; a first line that begins with no number is the header."""
    with open_text(path) as stream:
        for number, line in enumerate(stream, 1):
            fields = line.split()
            if fields and (number > 1 or is_whole(fields[0])):
                yield f"{path}:{number}", fields
