"""Reading and writing of runs and judgments; the format (TREC, MS MARCO, BEIR, JSON, gzip) follows from the content."""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import weakref
from array import array
from collections import defaultdict
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from itertools import chain, groupby
from operator import itemgetter
from pathlib import Path
from typing import Any, TextIO, TypeVar

from rerank.errors import DataError, MissingResourceError, error_repr
from rerank.io.file_systems import open_for_ranges, read_range
from rerank.io.text_files import open_text_bytes, open_text_file, replace_text_file
from rerank.types import (
    EXCLUDED,
    Qrels,
    Query,
    Ranking,
    Run,
    make_ranking_scores_strictly_decrease,
    ranking_score_to_float32,
    ranking_scores_to_float32,
)

_RUN_COLUMNS = "6 columns (query Q0 document rank score tag), or 3 (query document rank), in all lines"
_QRELS_COLUMNS = "4 columns (query 0 document grade) or 3 (query document grade)"
_GRADES = "a whole number of at most six digits"
_WHOLE = re.compile(r"[+-]?0*[0-9]{1,6}(?:\.0*)?")
_RANK = re.compile(r"[+-]?[0-9]+(?:\.[0-9]*)?")
_COLUMN = re.compile(r"[^ \t-\r]+")
#: Characters that an id in a file of columns must not contain: ASCII whitespace, NUL, and lone surrogates.
_UNWRITABLE = re.compile("[ \t-\r\0\ud800-\udfff]")
_JSON = re.compile(r'\{\s*(?:"|\}|$)')  # a query id may start with a brace, but not like this
_HEADER = {"score", "grade", "rel", "relevance", "label"}
_RUN_IN_FOLDER = "run.trec"  #: Name of the run in the folder that `rerank run` creates.
#: Beginnings that ids must not have: at the start of a file, they would be parsed as a byte order mark or as JSON.
_MISREAD = ("\ufeff", '{"', "{}")

Number = TypeVar("Number", int, float)
_LARGE = 1 << 25  #: Minimum size in bytes of a run file whose rankings are not kept in memory.


def read_run(path: str | Path, *, name: str | None = None) -> Run:
    """Read a run: TREC (6 columns), MS MARCO (3 columns) or JSON ``{query: {document: score}}``, plain or gzipped.

    Only ASCII whitespace separates columns, as in trec_eval, so ids may contain other spaces such as U+3000. Scores are
    converted to single precision, and documents are sorted by score and id, as in trec_eval; TREC's ranks only have to
    be numbers. In MS MARCO's format, the score at rank r is 1/r. Documents have ids
    but no text. Each ranking of a large file is read when it is accessed, unless the file is compressed or in JSON, or
    the lines of its queries are scattered. The default name is the tag in the first line or the file name.

    Raises:
        MissingResourceError: The file does not exist, or is a folder.
        DataError: The file is empty, binary or truncated, or a line has the wrong columns, a rank that is not a number,
            a score that is not finite, or a duplicate document.
    """
    path = Path(path)
    if os.path.isfile(path / _RUN_IN_FOLDER):
        raise MissingResourceError(
            f"{path} is a folder", expected="a file", remedy=f"Did you mean {path / _RUN_IN_FOLDER}?"
        )
    tag = path.name.removesuffix(".gz").rsplit(".", 1)[0] or path.name
    with open_text_file(path) as text:
        first, rows = _peek_first_line(text, path)
        if _JSON.match(first):
            table = _parse_json(first + text.read(), str(path), _json_score)
        else:
            columns = len(split_columns(first))
            tag = tag if columns < 6 else split_columns(first)[5]
            parse = _parse_msmarco if columns == 3 else _parse_trec
            if _is_large(path):
                with contextlib.suppress(NotIndexedError):
                    return IndexedRun(path, parse, _sort_ranking, name=tag if name is None else name)
            table = parse(rows, path)
    return Run((_sort_ranking(query, scores) for query, scores in table.items()), name=tag if name is None else name)


def read_run_lists(path: str | Path) -> Iterator[Ranking]:
    """Yield the rankings of a TREC run of this package, with consecutive and sorted lines for each query."""
    path = Path(path)
    with open_text_file(path) as text:
        for query, together in groupby(_split_rows(text, 1), key=lambda row: row[1][0] if row[1] else ""):
            (scores,) = _parse_trec(together, path).values()
            yield Ranking.from_ids(Query(id=query), tuple(scores), tuple(scores.values()))


def write_run(run: Run, target: str | Path | TextIO) -> None:
    """Write a run in the six-column TREC format to a stream or a file, gzipped if its name ends in ``.gz``.

    Ranks start at 1. Where needed, scores are lowered so that they strictly decrease in single precision; programs that
    sort the lines by score therefore keep the ranking. Whitespace in the run's name is replaced by ``_`` in the tag.
    Queries without documents are omitted, and an existing file is replaced atomically.

    Raises:
        DataError: An id is empty, contains ASCII whitespace, or begins like JSON.
        MissingResourceError: The file's folder does not exist.
        StorageError: The file cannot be written.
    """
    with open_trec_run_file(target, run.name) as write:
        for ranking in run.values():
            write(ranking)


@contextlib.contextmanager
def open_trec_run_file(target: str | Path | TextIO, name: str) -> Generator[Callable[[Ranking], None]]:
    """Yield a function that writes a ranking as `write_run` does; a file is replaced when the block ends normally."""
    tag = "".join("_" if c.isspace() else c for c in _UNWRITABLE.sub("_", name)) or "run"
    with _open_target(target) as stream:
        yield lambda ranking: stream.writelines(_format_lines(ranking, tag))


def read_qrels(path: str | Path) -> Qrels:
    """Read judgments: TREC or MS MARCO (4 columns), BEIR (3 columns, optional header) or JSON, plain or gzipped.

    JSON has the format ``{query: {document: grade}}``. Grades are whole numbers; ``1.0`` is converted to 1. A judgment
    that is repeated with the same grade counts once.

    Raises:
        MissingResourceError: The file does not exist.
        DataError: The file is empty, binary or truncated, or a line has the wrong columns, a grade that is not a whole
            number, or a different grade than an earlier line for the same document.
    """
    path = Path(path)
    with open_text_file(path) as text:
        first, rows = _peek_first_line(text, path)
        if _JSON.match(first):
            table = _parse_json(first + text.read(), str(path), _json_grade)
        else:
            table = _parse_qrels(rows, path)
    return Qrels(table, name=str(path))


def write_qrels(qrels: Qrels, target: str | Path | TextIO) -> None:
    """Write judgments in the four-column TREC format, as `write_run` does; queries without judgments are omitted."""
    lines = (
        f"{_check_id(query, 'query')} 0 {_check_id(doc, 'document')} {grade}\n"
        for query, judged in qrels.items()
        for doc, grade in judged.items()
    )
    with _open_target(target) as stream:
        stream.writelines(lines)


def _open_target(target: str | Path | TextIO) -> contextlib.AbstractContextManager[TextIO]:
    return replace_text_file(target) if isinstance(target, (str, Path)) else contextlib.nullcontext(target)


def _format_lines(ranking: Ranking, tag: str) -> Iterator[str]:
    query = _check_id(ranking.query.id, "query")
    scores = make_ranking_scores_strictly_decrease(ranking.written_scores)
    for rank, (doc, value) in enumerate(zip(ranking.docs, scores, strict=True), 1):
        # nine digits distinguish all single-precision numbers
        yield f"{query} Q0 {_check_id(doc.id, 'document')} {rank} {value:.9g} {tag}\n"


def _check_id(name: str, kind: str) -> str:
    """Return an id after checking that it can be written as a column of a TREC file."""
    if not name or name.startswith(_MISREAD) or _UNWRITABLE.search(name):
        raise DataError(
            f"The {kind} id {name!r} cannot be written to a TREC file",
            expected="at least one character, no ASCII whitespace, and a beginning that cannot be mistaken for JSON",
            remedy=f"Rename the {kind}",
        )
    return name


def _is_large(path: Path) -> bool:
    if not path.is_file() or path.stat().st_size < _LARGE:
        return False
    with path.open("rb") as file:
        return file.read(2) != b"\x1f\x8b"  # gzip


def _peek_first_line(text: TextIO, path: Path) -> tuple[str, Iterator[Row]]:
    """Return the first line that is not blank, and an iterator over all rows that reads as it advances."""
    for number, line in enumerate(text, 1):
        if split_columns(line):
            return line.lstrip(), filter(itemgetter(1), _split_rows(chain([line], text), number))
    raise DataError(f"{path} is empty", expected="at least one line")


def _split_rows(lines: Iterable[str], first: int) -> Iterator[Row]:
    """Return an iterator over pairs of a line number, counted from ``first``, and the columns of the line."""
    return enumerate(map(split_columns, lines), first)


def split_columns(line: str) -> list[str]:
    """Split a line at ASCII whitespace only; `str.split` would also split ids, for example at U+00A0 or U+001C."""
    if line.isascii() and not ("\x1c" in line or "\x1d" in line or "\x1e" in line or "\x1f" in line):
        columns = line.split()  # much faster than the regular expression
    else:
        columns = _COLUMN.findall(line)
    if len(columns) > 6 and len(parts := line.split("\t")) == 6 and sum(len(part.split()) for part in parts[:5]) == 5:
        return columns[:6]  # between tabs, words may follow the tag of a run, as in the files of trec_eval's tests
    return columns


def _sort_ranking(query: str, scores: Mapping[str, float]) -> Ranking:
    """Return the ranking of one query, sorted by score and id according to `ranking_tie_sort_key`."""
    ranked = sorted(zip(scores.values(), scores, strict=True), reverse=True)
    values, doc_ids = zip(*ranked, strict=True) if ranked else ((), ())
    return Ranking.from_ids(Query(id=query), doc_ids, values)


def _wrong_columns_error(path: Path, row: Row, expected: str) -> DataError:
    number, fields = row
    return DataError(f"{path}:{number}: the line has {len(fields)} columns", expected=expected)


def _parse_trec(rows: Iterator[Row], path: Path) -> dict[str, dict[str, float]]:
    table: defaultdict[str, dict[str, float]] = defaultdict(dict)
    for number, fields in rows:
        if len(fields) != 6:
            raise _wrong_columns_error(path, (number, fields), _RUN_COLUMNS)
        query, _, doc, rank, text, _ = fields
        if not rank.isdecimal() and not _RANK.fullmatch(rank):
            raise DataError(
                f"{path}:{number}: the rank of document {doc!r} is {rank!r}", expected=f"a number, and {_RUN_COLUMNS}"
            )
        try:
            value = float(text) if "_" not in text else math.nan
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise DataError(f"{path}:{number}: the score of document {doc!r} is {text!r}", expected="a finite number")
        scores = table[query]
        if doc in scores:
            raise DataError(f"{path}:{number}: duplicate document {doc!r} in query {query!r}", expected="each id once")
        scores[doc] = value
    for scores in table.values():
        scores.update(zip(scores, ranking_scores_to_float32(scores.values()), strict=True))
    return table


def _parse_msmarco(rows: Iterator[Row], path: Path) -> dict[str, dict[str, float]]:
    table: dict[str, dict[str, float]] = {}
    taken: set[tuple[str, int]] = set()
    for number, fields in rows:
        if len(fields) != 3:
            raise _wrong_columns_error(path, (number, fields), _RUN_COLUMNS)
        query, doc, text = fields
        rank = int(text) if text.isascii() and text.isdigit() and len(text) < 16 else 0
        if rank < 1 or (query, rank) in taken:
            raise DataError(
                f"{path}:{number}: the rank of document {doc!r} is {text!r}",
                expected="a whole number of at least 1, each rank once per query",
            )
        taken.add((query, rank))
        scores = table.setdefault(query, {})
        if doc in scores:
            raise DataError(f"{path}:{number}: duplicate document {doc!r} in query {query!r}", expected="each id once")
        scores[doc] = 1.0 / rank
    return table


def _parse_json(text: str, source: str, convert: Callable[[object], Number]) -> dict[str, dict[str, Number]]:
    """Parse ``{query: {document: number}}``; a `ValueError` of ``convert`` contains what is expected of a number."""

    def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        """Refuse repeated keys, of which Python's parser would silently keep only the last value."""
        table: dict[str, Any] = {}
        for key, value in pairs:
            if key in table:
                raise DataError(f"{source}: the key {key!r} occurs twice in one object")
            table[key] = value
        return table

    try:
        table = json.loads(text, object_pairs_hook=unique_keys)
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"{source} starts like JSON but is not valid: {error}",
            expected="one JSON object, or another format of runs and judgments",
            remedy="For output of `rerank qrels judge`, use the file written by --qrels-out",
        ) from error
    result: dict[str, dict[str, Number]] = {}
    for query, row in table.items():
        where = f"{source}: query {query!r}"
        if not isinstance(row, Mapping):
            raise DataError(f"{where} has {error_repr(row)}", expected="an object of document ids and numbers")
        result[query] = {}
        for doc, number in row.items():
            try:
                result[query][doc] = convert(number)
            except ValueError as error:
                found = f"{where} has {error_repr(number)} for document {doc!r}"
                raise DataError(found, expected=str(error)) from error
    if not any(result.values()):
        raise DataError(f"{source} contains no documents", expected="at least one")
    return result


def _json_score(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value != value or abs(value) == math.inf:
        raise ValueError("a finite number")
    return ranking_score_to_float32(value)


def _json_grade(value: object) -> int:
    """Return a grade as an integer (1.0 is 1); trec_eval would allocate arrays of the size of a large grade."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or abs(value) > 999_999:
        raise ValueError(_GRADES)
    return value


def _parse_qrels(rows: Iterator[Row], path: Path) -> dict[str, dict[str, int]]:
    table: dict[str, dict[str, int]] = {}
    columns = 0
    for number, fields in rows:
        if not columns:
            columns = len(fields)
            if columns not in (3, 4):
                raise _wrong_columns_error(path, (number, fields), _QRELS_COLUMNS)
            if fields[-1].lower() in _HEADER:
                continue
        if len(fields) != columns:
            raise _wrong_columns_error(path, (number, fields), f"{columns}, as in the first line")
        query, doc, text = fields[0], fields[-2], fields[-1]
        if not _WHOLE.fullmatch(text):
            raise DataError(f"{path}:{number}: the grade of document {doc!r} is {text!r}", expected=_GRADES)
        value = int(text.split(".")[0])
        if table.setdefault(query, {}).setdefault(doc, value) != value:
            raise DataError(
                f"{path}:{number}: document {doc!r} of query {query!r} has grade {value} here and {table[query][doc]} "
                "above",
                expected="one grade for each document of a query",
            )
    if not table:
        raise DataError(f"{path} has a header but no judgments", expected="at least one judgment")
    return table


Row = tuple[int, list[str]]  #: Line number (from 1) and columns of a row.
#: Function that parses rows of a run file, and returns a mapping query id -> document id -> score.
RunRowParser = Callable[[Iterator[Row], Path], Mapping[str, Mapping[str, float]]]


class NotIndexedError(Exception):
    """A run file cannot be indexed, for example because the lines of its queries are scattered."""


class IndexedRun(Run):
    """A run in an uncompressed file in which the lines of each query are consecutive, or in a few consecutive blocks.

    The whole file is read once, to check all lines and to record the position of each block. A ranking is parsed
    whenever it is accessed. Memory is needed only for the query ids and for three numbers per block.
    """

    def __init__(
        self, path: Path, parse: RunRowParser, make: Callable[[str, Mapping[str, float]], Ranking], *, name: str
    ) -> None:
        super().__init__((), name=name)
        self._path, self._parse, self._make = path, parse, make
        self._file = open_for_ranges(path)
        weakref.finalize(self, os.close, self._file)
        self._state = self._file_state()
        self._places: dict[str, int | list[int]] = {}
        self._starts, self._ends, self._numbers = array("Q"), array("Q"), array("Q")
        self._scan()
        for query, places in self._places.items():
            if isinstance(places, list):
                self._scores(query)  # a document may be repeated in another place

    def _scan(self) -> None:
        """Record the positions of the blocks of all queries, and check their lines."""
        with open_text_bytes(self._path) as stream:
            for _, together in groupby(self._lines(stream), key=itemgetter(0)):
                lines = [*together]
                (query,) = self._parse(self._rows((number, line) for _, number, _, line in lines), self._path)
                (_, number, start, _), (_, _, last, line) = lines[0], lines[-1]
                self._add_place(query, start, last + len(line), number)

    def _lines(self, stream: Iterable[bytes]) -> Iterator[tuple[bytes, int, int, bytes]]:
        """Yield the first column, the line number, the byte offset and the content of each line that is not blank."""
        offset = 0
        for number, line in enumerate(stream, 1):
            text = line.removeprefix(b"\xef\xbb\xbf") if not offset else line
            offset += len(line) - len(text)
            if b"\r" in text and text.rstrip(b"\r\n").count(b"\r"):
                raise NotIndexedError("lines that end in a carriage return")
            if columns := text.split(None, 1):
                yield columns[0], number, offset, text
            offset += len(text)

    def _add_place(self, query: str, start: int, end: int, number: int) -> None:
        place = len(self._starts)
        self._starts.append(start)
        self._ends.append(end)
        self._numbers.append(number)
        before = self._places.get(query)
        self._places[query] = place if before is None else [*(before if isinstance(before, list) else [before]), place]
        if place > 1000 and place > 2 * len(self._places):
            raise NotIndexedError("lines of a query in many places")

    def _rows(self, lines: Iterable[tuple[int, bytes]]) -> Iterator[Row]:
        """Yield the line number and the columns of each line that is not blank."""
        try:
            for number, line in lines:
                if columns := split_columns(line.decode("utf-8")):
                    yield number, columns
        except UnicodeDecodeError as error:
            raise NotIndexedError("not in UTF-8") from error

    def _scores(self, query: str) -> Mapping[str, float]:
        places = self._places[query]
        lines: list[tuple[int, bytes]] = []
        for place in places if isinstance(places, list) else [places]:
            content = read_range(self._file, self._starts[place], self._ends[place] - self._starts[place])
            if self._file_state() != self._state:
                raise DataError(f"{self._path} was changed while it was read", remedy="Run the command again")
            lines += enumerate(content.split(b"\n"), self._numbers[place])
        return self._parse(self._rows(lines), self._path)[query]

    def _file_state(self) -> tuple[int, int]:
        state = os.fstat(self._file)
        return state.st_size, state.st_mtime_ns

    def __getitem__(self, query_id: str) -> Ranking:
        return self._make(query_id, self._scores(query_id))

    def __contains__(self, query_id: object) -> bool:
        return query_id in self._places

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


def excluded_documents_of_qrels(qrels: Qrels) -> dict[str, frozenset[str]]:
    """Return, by query id, the ids of documents that must not be ranked; queries without such documents are omitted."""
    rows = {query: frozenset(doc for doc, g in grades.items() if g == EXCLUDED) for query, grades in qrels.items()}
    return {query: docs for query, docs in rows.items() if docs}


def qrels_without_excluded_documents(qrels: Qrels) -> Qrels:
    """Return the judgments without the grade `rerank.types.EXCLUDED`. All queries are kept."""
    if not any(EXCLUDED in grades.values() for grades in qrels.values()):
        return qrels
    rows = {query: {doc: g for doc, g in grades.items() if g != EXCLUDED} for query, grades in qrels.items()}
    return Qrels(rows, name=qrels.name)
