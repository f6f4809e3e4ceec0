"""The files of runs and judgments: TREC's, MS MARCO's, BEIR's and JSON, plain or gzipped.

What each form looks like is told from its content, never from its name. A fault is a `DataError` that names the file
and the line. This module knows ids, scores and grades, not texts or measures.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TextIO

from rerank.errors import DataError, MissingResourceError
from rerank.io.json_tables import GRADES, grade, read_table, score
from rerank.io.text_files import open_text, replace_text
from rerank.types import Document, Qrels, Query, Ranking, Run, float32, strictly_decreasing

__all__ = ["open_text", "read_qrels", "read_run", "replace_text", "write_qrels", "write_run"]

_RUN_COLUMNS = "6 columns (query Q0 document rank score tag) or 3 (query document rank)"
_QRELS_COLUMNS = "4 columns (query 0 document grade) or 3 (query document grade)"
_WHOLE = re.compile(r"[+-]?0*[0-9]{1,6}(?:\.0*)?")
_JSON = re.compile(r'\{\s*(?:"|\}|$)')  # a query's id may start with a brace, but hardly so
_HEADER = {"score", "grade", "rel", "relevance", "label"}
#: What the run is called in the folder that `rerank run` makes.
_RUN_IN_FOLDER = "run.trec"
#: How no id may start: as the first of a file it would be read as a byte order mark or as JSON.
_MISREAD = ("\ufeff", '{"', "{}")

#: Where something stands in a file (for messages), and its columns.
_Row = tuple[str, list[str]]


def read_run(path: str | Path, *, name: str | None = None) -> Run:
    """Read a run: TREC (6 columns), MS MARCO (3 columns) or JSON ``{query: {document: score}}``; gzip too.

    Scores are taken in single precision and sorted by the tie rule, as trec_eval does; TREC's rank column and
    what follows the tag are ignored.
    In MS MARCO's form the score at rank r is 1/r. The documents of the run have ids and no text.

    Args:
        path: The file.
        name: The run's name; else the tag of its first line, else the file's name without endings.

    Raises:
        MissingResourceError: The file is not there, or is a folder.
        DataError: It is empty, binary or cut off, or a line has the wrong columns, a score that is no finite number,
            or a document that its query already has.
    """
    path = Path(path)
    if os.path.isfile(path / _RUN_IN_FOLDER):
        raise MissingResourceError(
            f"{path} is a folder", expected="a file", remedy=f"Did you mean {path / _RUN_IN_FOLDER}?"
        )
    tag = path.name.removesuffix(".gz").rsplit(".", 1)[0] or path.name
    with open_text(path) as text:
        first, lines = _peek(text, path)
        if _JSON.match(first):
            scores = read_table("".join(line for _, line in lines), str(path), score)
        else:
            rows = _rows(lines, path)
            columns = len(first.split())
            if columns != 3 and columns < 6:
                raise _wrong_columns(next(rows), _RUN_COLUMNS)
            tag = tag if columns == 3 else first.split()[5]
            scores = _msmarco_scores(rows) if columns == 3 else _trec_scores(rows)
    return Run(
        (
            Ranking.from_scores(Query(id=query), [(Document(id=doc), score) for doc, score in found.items()])
            for query, found in scores.items()
        ),
        name=tag if name is None else name,
    )


def write_run(run: Run, target: str | Path | TextIO) -> None:
    """Write a run as TREC's six columns, so that any reader of scores, in single precision too, finds this order.

    Ranks count from 1. Scores are those of the run, lowered where needed until they fall strictly. White space in the
    run's name becomes ``_`` in the tag. A query without documents has no line, as the form has none for it.

    Args:
        run: What to write.
        target: A stream, or a file, which is replaced when all is written (gzipped if its name ends in ``.gz``).

    Raises:
        DataError: An id is empty or holds white space, which the form cannot express.
        MissingResourceError: The file's folder is not there.
        StorageError: The file cannot be written.
    """
    tag = "".join("_" if _unwritable(c) else c for c in run.name) or "run"
    _write(_run_lines(run, tag), target)


def read_qrels(path: str | Path) -> Qrels:
    """Read judgments: TREC or MS MARCO (4 columns), BEIR (3 columns with a header), 3 columns without, JSON; gzip too.

    Grades are whole numbers; ``1.0`` is read as 1. The same judgment twice counts once.

    Args:
        path: The file. JSON has the form ``{query: {document: grade}}``.

    Raises:
        MissingResourceError: The file is not there.
        DataError: It is empty, binary or cut off, or a line has the wrong columns, a grade that is not whole, or
            another grade than an earlier line for the same document.
    """
    path = Path(path)
    with open_text(path) as text:
        first, lines = _peek(text, path)
        if _JSON.match(first):
            table = read_table("".join(line for _, line in lines), str(path), grade)
        else:
            table = _grades(_rows(lines, path), path)
    return Qrels(table, name=str(path))


def write_qrels(qrels: Qrels, target: str | Path | TextIO) -> None:
    """Write judgments as TREC's four columns.

    Args:
        qrels: What to write. A query without judgments has no line.
        target: A stream, or a file, which is replaced when all is written (gzipped if its name ends in ``.gz``).

    Raises:
        DataError: An id is empty or holds white space.
        MissingResourceError: The file's folder is not there.
        StorageError: The file cannot be written.
    """
    lines = (
        f"{_plain(query, 'query')} 0 {_plain(doc, 'document')} {grade}\n"
        for query, judged in qrels.items()
        for doc, grade in judged.items()
    )
    _write(lines, target)


def _write(lines: Iterable[str], target: str | Path | TextIO) -> None:
    opened = replace_text(target) if isinstance(target, (str, Path)) else contextlib.nullcontext(target)
    with opened as stream:
        stream.writelines(lines)


def _run_lines(run: Run, tag: str) -> Iterator[str]:
    for ranking in run.values():
        query = _plain(ranking.query.id, "query")
        scores = strictly_decreasing(ranking.scores)
        for rank, (doc, value) in enumerate(zip(ranking.docs, scores, strict=True), 1):
            # nine digits tell every single-precision number from its neighbours
            yield f"{query} Q0 {_plain(doc.id, 'document')} {rank} {value:.9g} {tag}\n"


def _unwritable(character: str) -> bool:
    """White space, NUL and lone surrogates."""
    return character.isspace() or character == "\0" or "\ud800" <= character <= "\udfff"


def _plain(name: str, kind: str) -> str:
    """The id itself, if a line of columns can hold it."""
    if not name or name.startswith(_MISREAD) or any(map(_unwritable, name)):
        raise DataError(
            f"The {kind} id {name!r} cannot stand in a TREC file",
            expected="at least one character, no white space, and no start that reads as JSON",
            remedy="Rename it",
        )
    return name


def _peek(text: TextIO, path: Path) -> tuple[str, Iterator[tuple[int, str]]]:
    """The first line that is not blank, and all lines from it on, with their numbers (from 1)."""
    numbered = ((number, line) for number, line in enumerate(text, 1) if line.strip())
    first = next(numbered, None)
    if first is None:
        raise DataError(f"{path} is empty", expected="at least one line")

    def lines() -> Iterator[tuple[int, str]]:
        yield first
        yield from numbered

    return first[1].strip(), lines()


def _rows(lines: Iterator[tuple[int, str]], path: Path) -> Iterator[_Row]:
    for number, line in lines:
        yield f"{path}:{number}", line.split()


def _wrong_columns(row: _Row, expected: str) -> DataError:
    where, fields = row
    return DataError(f"{where}: {len(fields)} columns", expected=expected)


def _trec_scores(rows: Iterator[_Row]) -> dict[str, dict[str, float]]:
    table: dict[str, dict[str, float]] = {}
    for where, fields in rows:
        if len(fields) < 6:
            raise _wrong_columns((where, fields), _RUN_COLUMNS)
        query, _, doc, _, text = fields[:5]
        try:
            value = float(text) if "_" not in text else math.nan
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise DataError(f"{where}: score {text!r} of document {doc!r}", expected="a finite number")
        found = table.setdefault(query, {})
        if doc in found:
            raise DataError(f"{where}: document {doc!r} stands twice in query {query!r}", expected="each id once")
        found[doc] = float32(value)
    return table


def _msmarco_scores(rows: Iterator[_Row]) -> dict[str, dict[str, float]]:
    table: dict[str, dict[str, float]] = {}
    taken: set[tuple[str, int]] = set()
    for where, fields in rows:
        if len(fields) != 3:
            raise _wrong_columns((where, fields), _RUN_COLUMNS)
        query, doc, text = fields
        rank = int(text) if text.isascii() and text.isdigit() and len(text) < 16 else 0
        if rank < 1 or (query, rank) in taken:
            raise DataError(f"{where}: rank {text!r} of document {doc!r}", expected="a whole number from 1, each once")
        taken.add((query, rank))
        found = table.setdefault(query, {})
        if doc in found:
            raise DataError(f"{where}: document {doc!r} stands twice in query {query!r}", expected="each id once")
        found[doc] = 1.0 / rank
    return table


def _grades(rows: Iterator[_Row], path: Path) -> dict[str, dict[str, int]]:
    table: dict[str, dict[str, int]] = {}
    columns = 0
    for where, fields in rows:
        if not columns:
            columns = len(fields)
            if columns not in (3, 4):
                raise _wrong_columns((where, fields), _QRELS_COLUMNS)
            if fields[-1].lower() in _HEADER:
                continue
        if len(fields) != columns:
            raise _wrong_columns((where, fields), f"{columns}, as in the first line")
        query, doc, text = fields[0], fields[-2], fields[-1]
        if not _WHOLE.fullmatch(text):
            raise DataError(f"{where}: grade {text!r} of document {doc!r}", expected=GRADES)
        value = int(text.split(".")[0])
        if table.setdefault(query, {}).setdefault(doc, value) != value:
            raise DataError(
                f"{where}: document {doc!r} of query {query!r} has grade {value} here and {table[query][doc]} above",
                expected="one grade for each",
            )
    if not table:
        raise DataError(f"{path} has a header and no judgments", expected="at least one judgment")
    return table
