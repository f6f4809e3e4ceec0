"""A set of row numbers that needs about one bit per number if the numbers are dense."""

from __future__ import annotations

#: Number of rows per block.
_BLOCK = 1024


class RowSet:
    """A set of row numbers of a call log; a number may be as large as SQLite allows."""

    def __init__(self) -> None:
        """Create an empty set."""
        self._blocks: dict[int, int] = {}

    def add(self, number: int) -> bool:
        """Add a number, and return whether it was not in the set yet."""
        block, bit = divmod(number, _BLOCK)
        present, mask = self._blocks.get(block, 0), 1 << bit
        self._blocks[block] = present | mask
        return not present & mask

    def __contains__(self, number: int) -> bool:
        """Return whether a number is in the set."""
        block, bit = divmod(number, _BLOCK)
        return bool(self._blocks.get(block, 0) & 1 << bit)
