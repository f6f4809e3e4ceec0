"""Functions that read T2Ranking's judgments, with and without grades, and candidate lists."""

from __future__ import annotations

import math
from collections.abc import Container, Iterator
from pathlib import Path

from rerank.errors import DataError, error_repr
from rerank.io.numbered_rows import is_whole_number, parse_whole_number
from rerank.io.text_files import open_text_file

#: The grades of T2Ranking: 0 to 3.
GRADES = range(4)
#: Lowest grade that counts as positive in the retrieval task.
POSITIVE = 2
#: Id of the passage that pads lists to a fixed length.
_PAD = "0"

#: Mapping from query id to the passages of its list, best first, each with its score or None.
CandidateLists = dict[str, list[tuple[str, float | None]]]


def read_t2ranking_grades(path: Path) -> dict[str, dict[str, int]]:
    """Read judgments with grades from a file with the columns query, an ignored value, passage and grade."""
    table: dict[str, dict[str, int]] = {}
    for where, fields in _read_t2ranking_rows(path):
        if len(fields) != 4 or not is_whole_number(fields[3]) or int(float(fields[3])) not in GRADES:
            raise DataError(
                f"{where}: the row is {error_repr(' '.join(fields))}",
                expected="query, 0, passage and a grade from 0 to 3",
            )
        grade = int(float(fields[3]))
        judged = table.setdefault(parse_whole_number(fields[0], "query", where), {})
        passage = parse_whole_number(fields[2], "passage", where)
        if judged.setdefault(passage, grade) != grade:
            raise DataError(
                f"{where}: passage {passage} has grade {grade} here and {judged[passage]} above",
                expected="one grade for each passage of a query",
            )
    return table


def read_t2ranking_positives(path: Path) -> dict[str, dict[str, int]]:
    """Read judgments without grades from a file with the columns query and passage; every passage receives grade 1."""
    table: dict[str, dict[str, int]] = {}
    for where, fields in _read_t2ranking_rows(path):
        if len(fields) != 2:
            raise DataError(f"{where}: the row has {len(fields)} columns", expected="2: query and passage")
        table.setdefault(parse_whole_number(fields[0], "query", where), {})[
            parse_whole_number(fields[1], "passage", where)
        ] = 1
    return table


def read_t2ranking_lists(path: Path, queries: Container[str], depth: int, *, has_zero: bool) -> CandidateLists:
    """Read candidate lists from a file with the columns query, passage, rank (from 0 or 1) and optionally score.

    Columns are separated by whitespace. Rows with passage 0 are padding. If the collection has a passage 0, the first
    such row of a list is a candidate, and only the others are padding.

    Args:
        path: The file.
        queries: Ids of the queries whose lists are read.
        depth: Maximum number of candidates per query.
        has_zero: Whether the collection contains a passage 0.

    Returns:
        A mapping from each query that has a list to its candidates, sorted by rank.
    """
    lists: dict[str, dict[int, tuple[str, float | None]]] = {}
    for where, fields in _read_t2ranking_rows(path):
        query = parse_whole_number(fields[0], "query", where)
        if query not in queries:
            continue
        if len(fields) not in (3, 4) or not is_whole_number(fields[2]):
            raise DataError(
                f"{where}: the row is {error_repr(' '.join(fields))}",
                expected="query, passage, rank, and optionally a score",
            )
        rank = int(float(fields[2]))
        if rank > depth:
            continue
        passage = parse_whole_number(fields[1], "passage", where)
        ranked = lists.setdefault(query, {})
        if rank in ranked:
            raise DataError(f"{where}: query {query} has rank {rank} twice", expected="each rank once")
        ranked[rank] = (passage, _parse_t2ranking_score(fields[3], where) if len(fields) == 4 else None)
    return {
        query: _strip_t2ranking_collection_padding(query, ranked, path, has_zero)[:depth]
        for query, ranked in lists.items()
    }


def _strip_t2ranking_collection_padding(
    query: str, ranked: dict[int, tuple[str, float | None]], path: Path, has_zero: bool
) -> list[tuple[str, float | None]]:
    candidates: dict[str, float | None] = {}
    for rank in sorted(ranked):
        passage, score = ranked[rank]
        if passage == _PAD and (not has_zero or passage in candidates):
            continue
        if passage in candidates:
            raise DataError(f"{path}: query {query} has passage {passage} twice", expected="each passage once")
        candidates[passage] = score
    return list(candidates.items())


def _parse_t2ranking_score(text: str, where: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise DataError(f"{where}: the score is {error_repr(text)}", expected="a finite number")
    return value


def _read_t2ranking_rows(path: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield the position and the columns of each line; a header, a first line without a number, is skipped."""
    with open_text_file(path) as stream:
        for number, line in enumerate(stream, 1):
            fields = line.split()
            if fields and (number > 1 or is_whole_number(fields[0])):
                yield f"{path}:{number}", fields
