"""A run whose rankings are read from its file when they are needed; only their positions in the file are in memory."""

from __future__ import annotations

import os
import weakref
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import groupby
from operator import itemgetter
from pathlib import Path

from rerank.errors import DataError
from rerank.io.text_files import open_text_bytes
from rerank.types import Ranking, Run

#: Line number (from 1) and columns of a row.
Row = tuple[int, list[str]]
#: Function that parses rows of a run file, and returns a mapping query id -> document id -> score.
RunRowParser = Callable[[Iterator[Row], Path], Mapping[str, Mapping[str, float]]]


class NotIndexedError(Exception):
    """A run file cannot be indexed, for example because the lines of its queries are scattered."""


class IndexedRun(Run):
    """A run in a file in which the lines of each query are consecutive, or in a few consecutive blocks.

    The whole file is read once, to check all lines and to record the position of each block. A ranking is parsed
    whenever it is accessed. Memory is needed only for the query ids and for three numbers per block.

    Args:
        path: The file, which must not be compressed.
        parse: Function that parses the rows of one query.
        make: Function that builds the ranking of a query from its id and its scores.
        name: Name of the run.
    """

    def __init__(
        self, path: Path, parse: RunRowParser, make: Callable[[str, Mapping[str, float]], Ranking], *, name: str
    ) -> None:
        """Read the file and index it."""
        super().__init__((), name=name)
        self._path, self._parse, self._make = path, parse, make
        self._file = os.open(path, os.O_RDONLY)
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
                if columns := line.decode("utf-8").split():
                    yield number, columns
        except UnicodeDecodeError as error:
            raise NotIndexedError("not in UTF-8") from error

    def _scores(self, query: str) -> Mapping[str, float]:
        places = self._places[query]
        lines: list[tuple[int, bytes]] = []
        for place in places if isinstance(places, list) else [places]:
            content = os.pread(self._file, self._ends[place] - self._starts[place], self._starts[place])
            if self._file_state() != self._state:
                raise DataError(f"{self._path} was changed while it was read", remedy="Run the command again")
            lines += enumerate(content.split(b"\n"), self._numbers[place])
        return self._parse(self._rows(lines), self._path)[query]

    def _file_state(self) -> tuple[int, int]:
        state = os.fstat(self._file)
        return state.st_size, state.st_mtime_ns

    def __getitem__(self, query_id: str) -> Ranking:
        """Read the ranking of a query from the file."""
        return self._make(query_id, self._scores(query_id))

    def __contains__(self, query_id: object) -> bool:
        """Return whether the file contains a query, without reading its ranking."""
        return query_id in self._places

    def __iter__(self) -> Iterator[str]:
        """Iterate over the query ids, in order of first occurrence."""
        return iter(self._places)

    def __len__(self) -> int:
        """Return the number of queries."""
        return len(self._places)
