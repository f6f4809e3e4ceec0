"""Sliding windows from the tail to the head (Sun et al., EMNLP 2023, arXiv 2304.09542, section 3.2: RankGPT)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from rerank.errors import UsageError
from rerank.strategies.base import check_number_of_passes
from rerank.types import Plan, Ranking, Window


def sliding_window_spans(n: int, size: int, stride: int, first: int = 0) -> Iterator[tuple[int, int]]:
    """Yield (start, end) of each window of one pass over positions ``first .. n - 1``, from the tail to the head.

    The spans cover every position, and the last span yielded always starts at ``first``. If a single position would
    remain, its span also includes the next position, since a single document cannot be ordered.
    """
    end = n
    while end - first > 1:
        start = max(first, end - size)
        yield start, end
        if start == first:
            return
        # At least two positions must remain, so that no window has a single document.
        end = max(end - stride, first + 2)


def count_sliding_windows(n: int, size: int, stride: int) -> int:
    """Return the number of windows of one pass over n positions: 1 + ceil(max(0, n - size) / stride), or 0 if n < 2."""
    return 0 if n < 2 else 1 + math.ceil(max(0, n - size) / stride)


def check_sliding_window(size: int, stride: int) -> None:
    """Check that a window can reorder documents and that the stride leaves no gaps."""
    if size < 2:
        raise UsageError(f"The window size is {size}", expected="at least 2 documents")
    if not 0 < stride <= size:
        raise UsageError(
            f"The stride is {stride}, and the window size is {size}",
            expected="0 < stride <= window size",
            remedy=f"Use --stride {size // 2}; a stride above the window size skips documents between windows",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Sliding:
    """A strategy that judges overlapping windows from the tail to the head, so that relevant documents move up.

    Calls for n documents: passes x (1 + ceil((n - size) / stride)) for n > size, passes for 2 <= n <= size.
    With size 20, stride 10 and n = 100, this is 9 per pass.

    Attributes:
        size: Number of documents per window.
        stride: Number of positions by which the window moves.
        passes: Number of passes; each pass works on the output of the previous one.
        top_k: Number of best documents to rank; None for all. Each window then ranks only its own ``top_k`` best
            documents. At most ``size - stride`` of them move on to the next window in any case.
    """

    size: int = 20
    stride: int = 10
    passes: int = 1
    top_k: int | None = None

    def __post_init__(self) -> None:
        """Check the options."""
        check_sliding_window(self.size, self.stride)
        check_number_of_passes(self.passes)

    def __call__(self, ranking: Ranking) -> Plan:
        """Yield one window at a time; each depends on the result of the previous one."""
        for _ in range(self.passes):
            for start, end in sliding_window_spans(len(ranking), self.size, self.stride):
                (order,) = yield [Window(ranking.query, ranking.docs[start:end], best=self.top_k)]
                ranking = ranking.reorder(start, order)
        return ranking

    def calls(self, n: int) -> int:
        """Return the number of windows of all passes."""
        return self.passes * count_sliding_windows(n, self.size, self.stride)
