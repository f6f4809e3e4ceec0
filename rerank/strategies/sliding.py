"""Sliding windows from the tail to the head (Sun et al., EMNLP 2023, arXiv 2304.09542, section 3.2: RankGPT)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from rerank.errors import UsageError
from rerank.types import Plan, Ranking, Window


def spans(n: int, size: int, stride: int, first: int = 0) -> Iterator[tuple[int, int]]:
    """The (start, end) of one pass's windows over positions ``first .. n - 1``, last window first.

    Every position is covered, and the last span starts at ``first``, whatever the numbers: the loop ends only there.
    Where one position would be left over by itself, its span takes the next one in, since one has no order.
    """
    end = n
    while end - first > 1:
        start = max(first, end - size)
        yield start, end
        if start == first:
            return
        end = max(end - stride, first + 2)


def span_count(n: int, size: int, stride: int) -> int:
    """How many spans one pass over n positions has: 1 + ceil((n - size) / stride), and 0 where n < 2."""
    return 0 if n < 2 else 1 + math.ceil(max(0, n - size) / stride)


def check_window(size: int, stride: int) -> None:
    """Refuse a window that cannot reorder anything or a stride that leaves gaps.

    Raises:
        UsageError: ``size < 2`` or not ``0 < stride <= size``.
    """
    if size < 2:
        raise UsageError(f"Window size {size}", expected="at least 2 documents, since one has no order")
    if not 0 < stride <= size:
        raise UsageError(
            f"Stride {stride} with window size {size}",
            expected="0 < stride <= window size",
            remedy=f"Use --stride {size // 2}; one above the window size would skip documents between windows",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Sliding:
    """Judge overlapping windows from the tail to the head, so that good documents rise.

    Calls for n documents: passes x (1 + ceil((n - size) / stride)) for n > size, passes for 2 <= n <= size.
    With 20/10 and n = 100 that is 9 a pass.

    Attributes:
        size: Documents in a window.
        stride: How far the window moves.
        passes: How often the whole walk is repeated on its own output.
        top_k: How many of the best are wanted; None for the whole order. Each window then has to find its own best
            so many, and hands on no more than ``size - stride`` of them in any case.

    Raises:
        UsageError: ``size < 2``, ``passes < 1`` or not ``0 < stride <= size``.
    """

    size: int = 20
    stride: int = 10
    passes: int = 1
    top_k: int | None = None

    def __post_init__(self) -> None:
        """Check the options."""
        check_window(self.size, self.stride)
        if self.passes < 1:
            raise UsageError(f"{self.passes} passes", expected="at least 1")

    def __call__(self, ranking: Ranking) -> Plan:
        """Yield one window at a time; each sees what the one before it left."""
        for _ in range(self.passes):
            for start, end in spans(len(ranking), self.size, self.stride):
                (order,) = yield [Window(ranking.query, ranking.docs[start:end], best=self.top_k)]
                ranking = ranking.reorder(start, order)
        return ranking

    def calls(self, n: int) -> int:
        """The formula above."""
        return self.passes * span_count(n, self.size, self.stride)
