"""Division of a collection into shards (contiguous ranges of documents), which are indexed or searched separately."""

from __future__ import annotations

from itertools import pairwise


def even_document_ranges(documents: int, largest: int) -> list[tuple[int, int]]:
    """Divide documents into the fewest ranges of at most ``largest`` documents, of almost equal sizes.

    Returns:
        The start (inclusive) and the end (exclusive) of each range.

    >>> even_document_ranges(10, 4)
    [(0, 3), (3, 6), (6, 10)]
    """
    count = -(-documents // largest)  # rounded up
    return list(pairwise(documents * number // count for number in range(count + 1)))
