"""Tab-separated files whose rows begin with a whole number: streamed, and looked up by it without reading the rest.

As T2Ranking's are: a header line, then ``number TAB rest``; quotes are characters like any other. Knows numbers and
lines, not what the rest means.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import tempfile
from array import array
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from rerank.errors import DataError, MissingResourceError, StorageError, shorten
from rerank.io.paths import cache_dir
from rerank.io.text_files import open_text

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_FLOAT = re.compile(r"[0-9]{1,15}(\.[0-9]*)?(e\+?[0-9]{1,2})?", re.I)
_LARGEST = 2**53
_MARK = b"\xef\xbb\xbf"


def whole(text: str, kind: str, where: str) -> str:
    """A whole number as an id: digits without leading zeros, whether it is written as one or as a float.

    >>> [whole(text, "passage", "x:1") for text in ("12", "012", "12.0", "1.2e1")]
    ['12', '12', '12', '12']

    Raises:
        DataError: It is none, or above 2^53, from where floats miss some.
    """
    if text.isascii() and text.isdigit() and len(text) < 16:
        return str(int(text))
    value = float(text) if _FLOAT.fullmatch(text) else -1.0
    if not (0 <= value <= _LARGEST and value.is_integer()):
        raise DataError(f"{where}: {kind} id {shorten(text)}", expected="a whole number from 0")
    return str(int(value))


def is_whole(text: str) -> bool:
    """Whether `whole` takes it, as it takes no name of a column."""
    try:
        whole(text, "", "")
    except DataError:
        return False
    return True


def read_rows(path: Path, kind: str) -> Iterator[tuple[str, str, str]]:
    """Stream the rows as where they stand, number and rest; a first line that begins with no number is the header.

    Args:
        path: The file, plain or gzipped.
        kind: What the number is of, for messages.

    Raises:
        MissingResourceError: No such file.
        DataError: A row has no tab, or does not begin with a whole number.
    """
    with open_text(path) as stream:
        for number, line in enumerate(stream, 1):
            first, tab, rest = line.rstrip("\n").partition("\t")
            if number == 1 and not is_whole(first):
                continue
            where = f"{path}:{number}"
            if not tab:
                if not line.strip():
                    continue
                raise DataError(f"{where}: {shorten(line.rstrip())}", expected=f"{kind} id, a tab, text")
            yield where, whole(first, kind, where), rest


def look_up(path: Path, numbers: Iterable[str]) -> Iterator[tuple[str, str]]:
    """The rows with these numbers, as number and rest, in the order of the file; numbers that it lacks are left out.

    The places of all rows are found in one pass and kept in the cache folder, 16 bytes a row, until the file changes.
    A gzipped file, which cannot be entered in the middle, is read from its start.

    Raises:
        DataError: A number stands twice, or a row is no text in UTF-8.
        StorageError: The cache folder cannot be written.
    """
    wanted = {number for number in numbers if number.isascii() and number.isdigit() and len(number) < 16}
    if _is_gzip(path):
        yield from ((number, rest) for _, number, rest in read_rows(path, "row") if number in wanted)
        return
    import numpy as np

    held, offsets = _places(path)
    asked = np.array(sorted(map(int, wanted)), dtype=np.int64)
    at = np.searchsorted(held, asked)
    there = at < len(held)
    there[there] = held[at[there]] == asked[there]
    found = sorted(zip(offsets[at[there]].tolist(), asked[there].tolist(), strict=True))
    with path.open("rb") as file:
        for offset, number in found:
            file.seek(offset)
            yield str(number), _row(file.readline(), path, number)


def _row(line: bytes, path: Path, number: int) -> str:
    """What stands behind the number and the tab."""
    try:
        first, _, rest = line.decode("utf-8").partition("\t")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}, row {number} is not in UTF-8 ({error.reason})", expected="text in UTF-8") from error
    if not is_whole(first) or whole(first, "", "") != str(number):
        raise DataError(f"{path} changed while it was read: row {number} has moved", remedy="Start again")
    return rest.removesuffix("\n").removesuffix("\r")


def _is_gzip(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(2) == b"\x1f\x8b"
    except OSError as error:
        raise MissingResourceError(f"{path} cannot be read: {error.strerror}") from error


def _places(path: Path) -> NDArray[np.int64]:
    """Shape (2, rows): the numbers, ascending, and the byte at which each one's row begins."""
    import numpy as np

    state = path.stat()
    name = f"{path.resolve()}\0{state.st_size}\0{state.st_mtime_ns}".encode()
    kept = cache_dir("rows") / f"{hashlib.sha256(name).hexdigest()[:24]}.npy"
    with contextlib.suppress(OSError, ValueError, EOFError):  # absent or damaged: it is made again
        found: NDArray[np.int64] = np.load(kept, mmap_mode="r", allow_pickle=False)
        if found.dtype == np.int64 and found.ndim == 2 and len(found) == 2:
            return found
    made = _find_places(path)
    _keep(made, kept)
    return made


def _find_places(path: Path) -> NDArray[np.int64]:
    import numpy as np

    numbers, offsets, offset = array("q"), array("q"), 0
    with path.open("rb") as file:
        for count, line in enumerate(file, 1):
            mark = len(_MARK) if count == 1 and line.startswith(_MARK) else 0
            first = line[mark:].partition(b"\t")[0].decode("ascii", "replace")
            if line.strip() and (count > 1 or is_whole(first)):
                numbers.append(int(whole(first, "row", f"{path}:{count}")))
                offsets.append(offset + mark)
            offset += len(line)
    table = np.array([numbers, offsets], dtype=np.int64)
    table = table[:, np.argsort(table[0], kind="stable")]
    twice = np.flatnonzero(table[0, 1:] == table[0, :-1])
    if len(twice):
        raise DataError(f"Row {table[0, twice[0]]} stands twice in {path}", expected="each number once")
    return table


def _keep(table: NDArray[np.int64], target: Path) -> None:
    import numpy as np

    temporary = ""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=target.parent, delete=False) as file:
            temporary = file.name
            np.save(file, table, allow_pickle=False)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(target)
    except OSError as error:
        if temporary:
            Path(temporary).unlink(missing_ok=True)
        raise StorageError(
            f"Cannot write below {target.parent}: {error.strerror or error}",
            remedy="Free some space, or set XDG_CACHE_HOME to a folder on another disk",
        ) from error
