"""A file of judgments: lines of JSON that are only ever added, each on the disk before the next document is shown.

Knows lines and the ways in which a crash leaves them; knows neither pools nor what a judgment means.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rerank.errors import DataError, MissingResourceError, StorageError, UsageError, shorten

FORMAT = "listrank judgments"
VERSION = 1
#: Says that the line before it was cut off by a crash and counts for nothing.
_TORN = {"torn": True}


class Journal:
    """The file. Nothing is written before the first line is added.

    Args:
        path: The file; it need not be there.
        about: What stands in its first line where it is new, beside format and version.

    Attributes:
        about: What stands in its first line.
        lines: The other lines, each with its number in the file, from 1.

    Raises:
        UsageError: The path is something else than a file.
        DataError: The file is no file of judgments, or a line of it is broken.
        MissingResourceError: It is there and cannot be read.
    """

    def __init__(self, path: Path, about: Mapping[str, Any]) -> None:
        """Read what is there."""
        self.path = path
        self.about = dict(about)
        self.lines: list[tuple[int, dict[str, Any]]] = []
        #: What has to be written in front of the next line.
        self._before = b""
        data = _bytes(path)
        self._size = len(data)
        first = _encoded({"format": FORMAT, "version": VERSION, **about})
        if len(data) < len(first) and first.startswith(data):  # a new file, or one that was torn in its first line
            self._before = first[len(data) :]
        else:
            self._read(data)

    def add(self, line: Mapping[str, Any]) -> None:
        """Write one more line and wait until it is on the disk.

        Raises:
            StorageError: It cannot be written, or somebody else has written to the file since it was read.
        """
        data = self._before + _encoded(line)
        try:
            with self.path.open("ab") as file:
                if file.tell() != self._size:
                    raise StorageError(
                        f"{self.path} has changed since it was read: somebody else judges into it, or edits it",
                        remedy="Let one of them go on, and begin again with the same command",
                    )
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            if not self._size:
                _sync_folder(self.path)
        except OSError as error:
            raise StorageError(
                f"{self.path} could not be written: {error.strerror or error}",
                remedy="Free space or mend the folder's permissions; the same command goes on from the last judgment",
            ) from error
        self._size += len(data)
        self._before = b""

    def _read(self, data: bytes) -> None:
        found = data.split(b"\n")
        ended = found[-1] == b""
        lines = found[:-1] if ended else found
        rows = [_parsed(line) for line in lines]
        self.about = self._checked(rows[0])
        if rows[-1] is None:
            warnings.warn(
                f"The last line of {self.path}, number {len(rows)}, was cut off, as by a crash; it is left out",
                stacklevel=4,
            )
            self._before = (b"" if ended else b"\n") + _encoded(_TORN)
        elif not ended:  # all there but the line's end
            self._before = b"\n"
        followers = [*lines[2:], _encoded(_TORN)]  # one too many where the first line is all there is
        for number, (row, behind) in enumerate(zip(rows[1:], followers, strict=False), 2):
            if row is not None:
                self.lines += [(number, row)] if row != _TORN else []
            elif not behind or not _encoded(_TORN).startswith(behind):  # even that line may have been cut off
                raise DataError(
                    f"{self.path}:{number}: {shorten(lines[number - 1].decode('utf-8', 'replace'))}",
                    expected="one JSON object a line",
                    remedy="Mend the line; the judgments behind it are not lost",
                )

    def _checked(self, row: dict[str, Any] | None) -> dict[str, Any]:
        """The first line, less format and version."""
        if row is None or row.pop("format", None) != FORMAT:
            raise DataError(
                f"{self.path} is there and is no file of judgments",
                expected=f'a first line of JSON with "format": "{FORMAT}"',
                remedy="Name another --out; nothing was written to this file",
            )
        if (version := row.pop("version", None)) != VERSION:
            raise DataError(
                f"{self.path} has version {shorten(version)} of the format",
                expected=f"version {VERSION}, the one that this listrank reads",
                remedy="Take the listrank that wrote it",
            )
        return row


def _sync_folder(path: Path) -> None:
    """A new file's name is on the disk only once its folder is."""
    folder = os.open(path.resolve().parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _bytes(path: Path) -> bytes:
    if path.exists() and not path.is_file():
        raise UsageError(f"{path} is no file that can be read again", expected="the name of a file, new or begun")
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""
    except (OSError, ValueError) as error:  # ValueError: a path with a NUL
        raise MissingResourceError(f"{path} cannot be read: {getattr(error, 'strerror', error)}") from error


def _encoded(line: Mapping[str, Any]) -> bytes:
    """A line; half a surrogate pair is kept, as ids may hold one."""
    return json.dumps(line, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n"


def _parsed(line: bytes) -> dict[str, Any] | None:
    """The object in a line; None if there is none."""
    try:
        row = json.loads(line.decode("utf-8", "surrogatepass"))
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) else None
