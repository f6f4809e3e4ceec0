"""Compressed storage of the prompts of a call log, in which the text that prompts of one query share is stored once.

The dictionary for compressing a prompt (RFC 1950, FDICT) is the end of the earlier prompts for the same query, so
repeated passages, in pairs or in overlapping windows, take up only a few bytes.
"""

from __future__ import annotations

import sqlite3
import zlib
from collections import OrderedDict
from typing import Literal, TypeVar

#: How prompts are stored: ``once``: compressed, in a separate table; ``full``: as JSON text in the row of the call;
#: ``none``: not at all.
PromptStorage = Literal["once", "full", "none"]

PROMPTS_SCHEMA = "CREATE TABLE IF NOT EXISTS prompts (row INTEGER PRIMARY KEY, before INTEGER, packed BLOB NOT NULL)"
#: Maximum number of bytes of a dictionary that zlib can use.
_WINDOW = 1 << 15
#: Number of queries whose dictionaries are kept in memory. If a query that was dropped occurs again, its next prompt is
#: compressed without a dictionary.
_QUERIES = 256

_Key = TypeVar("_Key")
_Value = TypeVar("_Value")


class LoggedPrompts:
    """The table of the compressed prompts of one call log.

    Each row refers to the previous row of the same query; the prompt of that row is the end of the dictionary for this
    row. Several processes may therefore write to the same log.
    """

    def __init__(self) -> None:
        """Start without compression dictionaries."""
        self._latest: OrderedDict[str, tuple[int, bytes]] = OrderedDict()  # query id -> last row, dictionary after it
        self._read: OrderedDict[int, bytes] = OrderedDict()  # row number -> dictionary after this row

    def forget(self) -> None:
        """Clear the compression dictionaries for new prompts, whose prompts may not have been committed."""
        self._latest.clear()

    def add(self, database: sqlite3.Connection, row: int, query_id: str, prompt: str) -> None:
        """Store the prompt of a new row of the log, without committing the transaction."""
        before, dictionary = self._latest.pop(query_id, (None, b""))
        content = prompt.encode()
        packer = zlib.compressobj(zdict=dictionary) if dictionary else zlib.compressobj()
        packed = packer.compress(content) + packer.flush()
        database.execute("INSERT OR REPLACE INTO prompts VALUES (?, ?, ?)", (row, before, packed))
        _remember(self._latest, query_id, (row, (dictionary + content)[-_WINDOW:]))

    def read(self, database: sqlite3.Connection, row: int) -> str | None:
        """Return the prompt of a row; None if the prompt was not stored."""
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
                raise ValueError(f"row {number} refers to row {before}, which is not an earlier row")
            chain.append((number, packed))
            number = before
        # A dictionary is usually needed once, for the row that follows, so only the latest one of a query is kept.
        dictionary = b"" if number is None else self._read.pop(number)
        content = b""
        try:
            for number, packed in reversed(chain):
                unpacker = zlib.decompressobj(zdict=dictionary) if dictionary else zlib.decompressobj()
                content = unpacker.decompress(packed)
                dictionary = (dictionary + content)[-_WINDOW:]
                _remember(self._read, number, dictionary)
        except (zlib.error, TypeError) as error:
            raise ValueError(f"the prompt of row {number} cannot be decompressed: {error}") from error
        return content.decode()


def _remember(table: OrderedDict[_Key, _Value], key: _Key, value: _Value) -> None:
    table[key] = value
    table.move_to_end(key)
    if len(table) > _QUERIES:
        table.popitem(last=False)
