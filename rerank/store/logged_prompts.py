"""Prompts of a call log, compressed: the text that prompts of a query share is stored once.

Each prompt is compressed with the end of the prompts that were logged before it for the same query as the dictionary
(RFC 1950, FDICT), so passages that occur again, in pairs or in overlapping windows, take up a few bytes.
"""

from __future__ import annotations

import sqlite3
import zlib
from collections import OrderedDict
from typing import Literal, TypeVar

#: ``once``: compressed, in a table of their own; ``full``: as JSON text in the row of the call; ``none``: not at all.
PromptStorage = Literal["once", "full", "none"]

PROMPTS_SCHEMA = "CREATE TABLE IF NOT EXISTS prompts (row INTEGER PRIMARY KEY, before INTEGER, packed BLOB NOT NULL)"
#: Bytes of a dictionary that zlib can use.
_WINDOW = 1 << 15
#: Number of queries whose dictionaries are in memory; one that comes back later starts without a dictionary.
_QUERIES = 256

_Key = TypeVar("_Key")
_Value = TypeVar("_Value")


class LoggedPrompts:
    """The table of the prompts of one call log.

    A row names the row whose prompt ends its dictionary. Several processes may therefore write to one log.
    """

    def __init__(self) -> None:
        """Start without dictionaries."""
        self._latest: OrderedDict[str, tuple[int, bytes]] = OrderedDict()  # query id -> row, dictionary after it
        self._read: OrderedDict[int, bytes] = OrderedDict()  # row -> dictionary after it

    def forget(self) -> None:
        """Forget the latest prompts, which may not have been committed."""
        self._latest.clear()

    def add(self, database: sqlite3.Connection, row: int, query_id: str, prompt: str) -> None:
        """Store the prompt of a new row of the log; the caller commits it."""
        before, dictionary = self._latest.pop(query_id, (None, b""))
        content = prompt.encode()
        packer = zlib.compressobj(zdict=dictionary) if dictionary else zlib.compressobj()
        packed = packer.compress(content) + packer.flush()
        database.execute("INSERT OR REPLACE INTO prompts VALUES (?, ?, ?)", (row, before, packed))
        _remember(self._latest, query_id, (row, (dictionary + content)[-_WINDOW:]))

    def read(self, database: sqlite3.Connection, row: int) -> str | None:
        """Return the prompt of a row; None if it was not stored.

        Raises:
            ValueError: The prompt, or one of those before it, is damaged.
        """
        chain: list[tuple[int, bytes]] = []
        number: int | None = row
        while number is not None and (number not in self._read or number == row):
            found = database.execute("SELECT before, packed FROM prompts WHERE row = ?", (number,)).fetchone()
            if found is None:
                if number == row:
                    return None
                raise ValueError(f"the prompt of row {number} is missing")
            before, packed = found
            if before is not None and before >= number:
                raise ValueError(f"row {number} follows row {before}")
            chain.append((number, packed))
            number = before
        # A row follows at most one other, so a dictionary is used once. Each query then has one, as in `add`.
        dictionary = b"" if number is None else self._read.pop(number)
        content = b""
        try:
            for number, packed in reversed(chain):
                unpacker = zlib.decompressobj(zdict=dictionary) if dictionary else zlib.decompressobj()
                content = unpacker.decompress(packed)
                dictionary = (dictionary + content)[-_WINDOW:]
                _remember(self._read, number, dictionary)
        except (zlib.error, TypeError) as error:
            raise ValueError(f"the prompt of row {number} cannot be unpacked: {error}") from error
        return content.decode()


def _remember(table: OrderedDict[_Key, _Value], key: _Key, value: _Value) -> None:
    table[key] = value
    table.move_to_end(key)
    if len(table) > _QUERIES:
        table.popitem(last=False)
