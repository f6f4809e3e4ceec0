"""A set of row numbers that takes about one bit per number where they are dense."""

from __future__ import annotations

#: Number of rows per block.
_BLOCK = 1024


class RowSet:
    """The rows of a call log that were counted; numbers may be as large as SQLite's."""

    def __init__(self) -> None:
        """Start empty."""
        self._blocks: dict[int, int] = {}

    def add(self, number: int) -> bool:
        """Add a number and return whether it was missing."""
        block, bit = divmod(number, _BLOCK)
        present, mask = self._blocks.get(block, 0), 1 << bit
        self._blocks[block] = present | mask
        return not present & mask
