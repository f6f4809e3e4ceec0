"""Readers, in file order or by random access, of T2Ranking's files: a header, then ``number TAB rest``, no quotes."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from array import array
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from rerank.errors import DataError, MissingResourceError, error_repr
from rerank.io.atomic_folder import temporary_file
from rerank.io.paths import cache_dir
from rerank.io.sealed_folders import storage_errors
from rerank.io.text_files import open_text_file

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

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
