"""Append-only file of judgments in JSON lines. Each line is synced to disk before the next document is shown.

A crash may leave the last line incomplete. This is detected when the file is opened again; the line is then ignored,
and a line that marks it as incomplete is written before the next judgment.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rerank.errors import DataError, MissingResourceError, StorageError, UsageError, error_repr

FORMAT = "listrank judgments"
VERSION = 1
#: Line that marks the previous line as incomplete because of a crash. The previous line is then ignored.
_TORN = {"torn": True}


class JudgmentJournal:
    """The file of a session's judgments, to which lines are only added. A new file is created with the first line.

    Args:
        path: Path of a new or an existing file.
        about: Contents of the first line of a new file, in addition to format and version.

    Attributes:
        about: Contents of the first line, without format and version.
        lines: The other lines as pairs of line number (from 1) and JSON object.
    """

    def __init__(self, path: Path, about: Mapping[str, Any]) -> None:
        self.path = path
        self.about = dict(about)
        self.lines: list[tuple[int, dict[str, Any]]] = []
        #: Bytes that must be written before the next line.
        self._before = b""
        if path.exists() and not path.is_file():
            raise UsageError(f"{path} is not a regular file", expected="the name of a new or existing file")
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            data = b""
        except (OSError, ValueError) as error:  # ValueError: the path contains a NUL character
            raise MissingResourceError(f"{path} cannot be read: {getattr(error, 'strerror', error)}") from error
        self._size = len(data)
        first = _encode({"format": FORMAT, "version": VERSION, **about})
        if len(data) < len(first) and first.startswith(data):  # new file, or incomplete first line
            self._before = first[len(data) :]
        else:
            self._read(data)

    def add(self, line: Mapping[str, Any]) -> None:
        """Append a JSON object as a line and sync it to disk."""
        data = self._before + _encode(line)
        try:
            with self.path.open("ab") as file:
                if file.tell() != self._size:
                    raise StorageError(
                        f"{self.path} has changed since it was read: another process writes to it",
                        remedy="Stop the other process, then repeat the same command",
                    )
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            if not self._size:  # without this, a crash could lose the directory entry of the new file
                folder = os.open(self.path.resolve().parent, os.O_RDONLY)
                try:
                    os.fsync(folder)
                finally:
                    os.close(folder)
        except OSError as error:
            raise StorageError(
                f"{self.path} could not be written: {error.strerror or error}",
                remedy="Free disk space or correct the folder's permissions, then repeat the same command to resume",
            ) from error
        self._size += len(data)
        self._before = b""

    def _read(self, data: bytes) -> None:
        """Parse the lines of an existing file and detect incomplete lines."""
        parts = data.split(b"\n")
        is_complete = parts[-1] == b""
        lines = parts[:-1] if is_complete else parts
        rows = [_parse(line) for line in lines]
        about = rows[0]
        if about is None or about.pop("format", None) != FORMAT:
            raise DataError(
                f"{self.path} exists and is not a file of judgments",
                expected=f'a first line of JSON with "format": "{FORMAT}"',
                remedy="Choose another --out; this file was not changed",
            )
        if (version := about.pop("version", None)) != VERSION:
            raise DataError(
                f"{self.path} has version {error_repr(version)} of the format",
                expected=f"version {VERSION}",
                remedy="Use the version of listrank that wrote the file",
            )
        self.about = about
        if rows[-1] is None:
            warnings.warn(
                f"The last line of {self.path}, number {len(rows)}, is incomplete, probably after a crash; "
                "it is ignored",
                stacklevel=4,
            )
            self._before = (b"" if is_complete else b"\n") + _encode(_TORN)
        elif not is_complete:  # complete except for the newline
            self._before = b"\n"
        followers = [*lines[2:], _encode(_TORN)]  # if there is only one line, the extra item is not used
        for number, (row, following) in enumerate(zip(rows[1:], followers, strict=False), 2):
            if row is not None:
                self.lines += [(number, row)] if row != _TORN else []
            elif not following or not _encode(_TORN).startswith(following):  # the marker itself may be incomplete
                raise DataError(
                    f"{self.path}:{number} is not a JSON object: "
                    f"{error_repr(lines[number - 1].decode('utf-8', 'replace'))}",
                    expected="one JSON object per line",
                    remedy="Correct the line; the judgments after it are intact",
                )


def _encode(line: Mapping[str, Any]) -> bytes:
    """Encode a JSON object as one line. Unpaired surrogates are kept, because ids may contain them."""
    return json.dumps(line, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n"


def _parse(line: bytes) -> dict[str, Any] | None:
    """Return the JSON object in a line; None if the line is not a JSON object."""
    try:
        row = json.loads(line.decode("utf-8", "surrogatepass"))
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) else None
