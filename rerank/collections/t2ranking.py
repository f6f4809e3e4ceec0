"""Provider of T2Ranking (Xie et al., SIGIR 2023), with 2.3 million passages, in its published tab-separated files.

Passages and queries are rows ``number TAB text`` without quotes after a header, read in file order or by random access.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
import re
from array import array
from collections.abc import Container, Iterable, Iterator
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from rerank.collections.base import (
    CollectionFiles,
    FileCollection,
    fetch_documents,
    find_file,
    optional_path,
    require_file,
    require_path,
)
from rerank.errors import DataError, MissingResourceError, ensure, error_repr
from rerank.io.atomic_folder import temporary_file
from rerank.io.json_records import check_unique_ids
from rerank.io.paths import cache_dir
from rerank.io.sealed_folders import storage_errors
from rerank.io.text_files import open_text_file
from rerank.io.topic_formats import convert_sgml_to_plain_text
from rerank.types import Document, Qrels, Query, Ranking, Run

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


Split = Literal["train", "dev", "test"]
#: The grades of T2Ranking: 0 to 3.
_GRADES = range(4)
#: Lowest grade that counts as positive in the retrieval task.
_POSITIVE = 2
#: Id of the passage that pads lists to a fixed length.
_PAD = "0"

#: Mapping from query id to the passages of its list, best first, each with its score or None.
_CandidateLists = dict[str, list[tuple[str, float | None]]]


class T2ranking(FileCollection):
    """A folder with T2Ranking's collection.tsv, queries.SPLIT.tsv, qrels.SPLIT.tsv and qrels.retrieval.SPLIT.tsv.

    The files, plain or gzipped, are in the folder or in its sub-folder ``data``. Both tasks use all queries of the
    split. The task ``reranking`` has judgments with grades 0 to 3. The task ``retrieval`` has only positives, with
    grade 1: the passages in qrels.retrieval.SPLIT.tsv or, if that file is missing, the passages with grade 2 or 3 in
    qrels.SPLIT.tsv. In the task ``retrieval``, a query without positives still counts as judged, since the official MRR
    averages over all queries of a run. The judgments of the test split are not public.

    Documents are looked up by id without reading the whole file, unless collection.tsv is gzipped.

    ``candidates`` is an optional file of candidate lists, with the columns query, passage, rank, and optionally score.
    The lists of the split's queries become the collection's candidates, up to rank ``depth``; the texts of these
    passages are kept in memory. ``markup`` is ``keep`` to leave passages as published, with ``<br>`` and ``<img>``, as
    used for the published results, or ``drop`` to remove tags and decode entities.
    """

    format_name: ClassVar[str] = "T2ranking"

    def __init__(
        self,
        folder: str,
        *,
        split: Split = "dev",
        task: Literal["reranking", "retrieval"] = "reranking",
        candidates: str = "",
        depth: int = 100,
        markup: Literal["keep", "drop"] = "keep",
    ) -> None:
        where = require_path(folder, "T2Ranking's files", folder=True)
        if not find_file(where, ["collection.tsv"]) and (where / "data").is_dir():
            where /= "data"
        ensure(depth >= 1, f"The collection 't2ranking' has the option depth={depth}", expected="at least 1")
        self._positives = task == "retrieval"
        qrels = find_file(where, [f"qrels.retrieval.{split}.tsv"] * self._positives + [f"qrels.{split}.tsv"])
        queries = require_file(where, [f"queries.{split}.tsv"], f"folder of T2Ranking with the split {split}")
        files = CollectionFiles(
            docs=(require_file(where, ["collection.tsv"], "folder of T2Ranking"),),
            queries=(queries,),
            qrels=(qrels,) if qrels else (),
        )
        super().__init__(f"t2ranking-{split}", files, language="zh")
        self._lists = optional_path(candidates, "a file of candidate lists")
        self._depth = depth
        self._plain = markup == "drop"

    @cached_property
    def fingerprint(self) -> str:
        """Hex SHA-256 of the passages' bytes and the option ``markup``, so all splits and tasks share their indexes."""
        markup = "drop" if self._plain else "keep"
        return CollectionFiles(docs=self.files.docs).digest({"format": self.format_name, "markup": markup})

    def docs(self) -> Iterator[Document]:
        """Return an iterator over the passages in file order, including those without text."""
        rows = read_numbered_rows(self.files.docs[0], "passage")
        return check_unique_ids(((where, self._document(number, text)) for where, number, text in rows), "document")

    def lookup(self, ids: Iterable[str]) -> dict[str, Document]:
        return {number: self._document(number, text) for number, text in lookup_numbered_rows(self.files.docs[0], ids)}

    def queries(self) -> list[Query]:
        rows = read_numbered_rows(self.files.queries[0], "query")
        queries = ((where, Query(id=number, text=text.strip())) for where, number, text in rows)
        return list(check_unique_ids(queries, "query"))

    def candidates(self) -> Run:
        """Return the candidate lists, with passage texts; empty if no file of candidates is given.

        The scores of a list are kept if all are present and do not increase; otherwise, the score at rank r is 1/r.
        """
        if not self._lists:
            return Run((), name=self.name)
        queries = {query.id: query for query in self.queries()}
        lists = _read_lists(self._lists[0], queries, self._depth, has_zero=bool(self.lookup(["0"])))
        docs = fetch_documents(self, {doc for row in lists.values() for doc, _ in row})
        rankings = []
        for query, row in lists.items():
            listed = tuple(docs[doc] for doc, _ in row)
            scores = tuple(score for _, score in row if score is not None)
            if len(scores) == len(row) and all(below <= above for above, below in pairwise(scores)):
                rankings.append(Ranking(queries[query], listed, scores))
            else:
                rankings.append(Ranking.from_order(queries[query], listed))
        return Run(rankings, name=self.name)

    @cached_property
    def _judged(self) -> Qrels:
        if not self.files.qrels:
            return Qrels({}, name=self.name)
        path = self.files.qrels[0]
        if not self._positives:
            table = _read_grades(path)
        elif path.name.startswith("qrels.retrieval."):
            table = _read_positives(path)
        else:
            graded = _read_grades(path)
            table = {q: {doc: 1 for doc, grade in row.items() if grade >= _POSITIVE} for q, row in graded.items()}
        queries = [query.id for query in self.queries()]
        if missing := sorted(table.keys() - set(queries)):
            raise DataError(
                f"{len(missing)} of the {len(table)} queries in {path} are not in {self.files.queries[0]}, including "
                f"{', '.join(missing[:3])}",
                remedy="Check that the files belong to the same collection",
            )
        if self._positives:
            table = {query: table.get(query, {}) for query in queries}
        return Qrels(table, name=str(path))

    def _document(self, number: str, text: str) -> Document:
        return Document(id=number, text=convert_sgml_to_plain_text(text) if self._plain else text)


def _read_grades(path: Path) -> dict[str, dict[str, int]]:
    """Read judgments with grades from a file with the columns query, an ignored value, passage and grade."""
    table: dict[str, dict[str, int]] = {}
    for where, fields in _read_rows(path):
        if len(fields) != 4 or not is_whole_number(fields[3]) or int(float(fields[3])) not in _GRADES:
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


def _read_positives(path: Path) -> dict[str, dict[str, int]]:
    """Read judgments without grades from a file with the columns query and passage; every passage receives grade 1."""
    table: dict[str, dict[str, int]] = {}
    for where, fields in _read_rows(path):
        if len(fields) != 2:
            raise DataError(f"{where}: the row has {len(fields)} columns", expected="2: query and passage")
        judged = table.setdefault(parse_whole_number(fields[0], "query", where), {})
        judged[parse_whole_number(fields[1], "passage", where)] = 1
    return table


def _read_lists(path: Path, queries: Container[str], depth: int, *, has_zero: bool) -> _CandidateLists:
    """Read candidate lists from a file with the columns query, passage, rank (from 0 or 1) and optionally score.

    Columns are separated by whitespace. Rows with passage 0 are padding. If the collection has a passage 0, the first
    such row of a list is a candidate, and only the others are padding.
    """
    lists: dict[str, dict[int, tuple[str, float | None]]] = {}
    for where, fields in _read_rows(path):
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
        score = None
        if len(fields) == 4:
            try:
                score = float(fields[3])
            except ValueError:
                score = math.nan
            if not math.isfinite(score):
                raise DataError(f"{where}: the score is {error_repr(fields[3])}", expected="a finite number")
        ranked[rank] = (passage, score)
    candidates: _CandidateLists = {}
    for query, ranked in lists.items():
        found: dict[str, float | None] = {}
        for _, (passage, score) in sorted(ranked.items()):
            if passage == _PAD and (not has_zero or passage in found):
                continue
            if passage in found:
                raise DataError(f"{path}: query {query} has passage {passage} twice", expected="each passage once")
            found[passage] = score
        candidates[query] = list(found.items())[:depth]
    return candidates


def _read_rows(path: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield the position and the columns of each line; a header, a first line without a number, is skipped."""
    with open_text_file(path) as stream:
        for number, line in enumerate(stream, 1):
            fields = line.split()
            if fields and (number > 1 or is_whole_number(fields[0])):
                yield f"{path}:{number}", fields


_FLOAT = re.compile(r"[0-9]{1,15}(\.[0-9]*)?(e\+?[0-9]{1,2})?", re.I)
_LARGEST = 2**53
_MARK = b"\xef\xbb\xbf"


def parse_whole_number(text: str, kind: str, where: str) -> str:
    """Parse a whole number, possibly written as a float, and return it as an id without leading zeros.

    >>> [parse_whole_number(text, "passage", "x:1") for text in ("12", "012", "12.0", "1.2e1")]
    ['12', '12', '12', '12']
    """
    if text.isascii() and text.isdigit() and len(text) < 16:
        return str(int(text))
    value = float(text) if _FLOAT.fullmatch(text) else -1.0
    if not (0 <= value <= _LARGEST and value.is_integer()):
        raise DataError(f"{where}: the {kind} id is {error_repr(text)}", expected="a whole number of at least 0")
    return str(int(value))


def is_whole_number(text: str) -> bool:
    """Return whether `parse_whole_number` accepts a text, which distinguishes a number from a column name."""
    try:
        parse_whole_number(text, "", "")
    except DataError:
        return False
    return True


def read_numbered_rows(path: Path, kind: str) -> Iterator[tuple[str, str, str]]:
    """Yield the position, number, and text after the tab of each row, a ``kind`` in messages; a header is skipped."""
    with open_text_file(path) as stream:
        for number, line in enumerate(stream, 1):
            first, tab, rest = line.rstrip("\n").partition("\t")
            if number == 1 and not is_whole_number(first):
                continue
            where = f"{path}:{number}"
            if not tab:
                if not line.strip():
                    continue
                raise DataError(f"{where}: the row is {error_repr(line.rstrip())}", expected=f"{kind} id, a tab, text")
            yield where, parse_whole_number(first, kind, where), rest


def lookup_numbered_rows(path: Path, numbers: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Yield the rows with these numbers as pairs of number and text after the tab, in file order.

    Numbers that are not in the file are omitted. The offsets of all rows are determined in one pass and cached, with 16
    bytes per row, until the file changes. A gzipped file does not allow random access and is read from the start.
    """
    requested = {number for number in numbers if number.isascii() and number.isdigit() and len(number) < 16}
    if _is_gzip_file(path):
        yield from ((number, rest) for _, number, rest in read_numbered_rows(path, "row") if number in requested)
        return
    import numpy as np

    numbers_in_file, offsets = _load_offsets(path)
    targets = np.array(sorted(map(int, requested)), dtype=np.int64)
    indices = np.searchsorted(numbers_in_file, targets)
    exists = indices < len(numbers_in_file)
    exists[exists] = numbers_in_file[indices[exists]] == targets[exists]
    rows = sorted(zip(offsets[indices[exists]].tolist(), targets[exists].tolist(), strict=True))
    with path.open("rb") as file:
        for offset, number in rows:
            file.seek(offset)
            yield str(number), _text_after_number(file.readline(), path, number)


def _text_after_number(line: bytes, path: Path, number: int) -> str:
    """Return the text of a row after the number and the tab, and check that the row has the expected number."""
    try:
        first, _, rest = line.decode("utf-8").partition("\t")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}, row {number} is not in UTF-8 ({error.reason})", expected="text in UTF-8") from error
    if not is_whole_number(first) or parse_whole_number(first, "", "") != str(number):
        raise DataError(f"{path} changed while it was read: row {number} has moved", remedy="Run the command again")
    return rest.removesuffix("\n").removesuffix("\r")


def _is_gzip_file(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(2) == b"\x1f\x8b"
    except OSError as error:
        raise MissingResourceError(f"{path} cannot be read: {error.strerror}") from error


def _load_offsets(path: Path) -> NDArray[np.int64]:
    """Return an array of shape (2, rows): the row numbers in ascending order, and the byte offset of each row."""
    import numpy as np

    state = path.stat()
    name = f"{path.resolve()}\0{state.st_size}\0{state.st_mtime_ns}".encode()
    cache = cache_dir("rows") / f"{hashlib.sha256(name).hexdigest()[:24]}.npy"
    with contextlib.suppress(OSError, ValueError, EOFError):  # absent or damaged: it is built again
        table: NDArray[np.int64] = np.load(cache, mmap_mode="r", allow_pickle=False)
        if table.dtype == np.int64 and table.ndim == 2 and len(table) == 2:
            return table
    table = _scan_offsets(path)
    with storage_errors(cache.parent):
        cache.parent.mkdir(parents=True, exist_ok=True)
        with temporary_file(cache) as temporary, temporary.open("wb") as file:
            np.save(file, table, allow_pickle=False)
            file.flush()
            os.fsync(file.fileno())
    return table


def _scan_offsets(path: Path) -> NDArray[np.int64]:
    import numpy as np

    numbers, offsets, offset = array("q"), array("q"), 0
    with path.open("rb") as file:
        for count, line in enumerate(file, 1):
            mark = len(_MARK) if count == 1 and line.startswith(_MARK) else 0
            first = line[mark:].partition(b"\t")[0].decode("ascii", "replace")
            if line.strip() and (count > 1 or is_whole_number(first)):
                numbers.append(int(parse_whole_number(first, "row", f"{path}:{count}")))
                offsets.append(offset + mark)
            offset += len(line)
    table = np.array([numbers, offsets], dtype=np.int64)
    table = table[:, np.argsort(table[0], kind="stable")]
    duplicates = np.flatnonzero(table[0, 1:] == table[0, :-1])
    if len(duplicates):
        raise DataError(f"Row {table[0, duplicates[0]]} occurs twice in {path}", expected="each number once")
    return table
