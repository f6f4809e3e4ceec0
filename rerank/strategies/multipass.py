"""Multi-pass sliding windows, for complete listwise labels (Liu et al., ACL 2025, arXiv 2412.14574, section 4.1)."""

from __future__ import annotations

from dataclasses import dataclass

from rerank.errors import UsageError
from rerank.strategies.sliding import check_sliding_window, count_sliding_windows, sliding_window_spans
from rerank.types import Plan, Ranking, Window


@dataclass(frozen=True, slots=True, kw_only=True)
class Multipass:
    """A strategy that repeats sliding-window passes; the first positions of each pass are then final.

    Adjacent windows share f = size - stride positions, so one pass moves the best f documents of its range to the head
    of the range. These documents keep their positions, and the next pass starts after them. The last pass is a single
    window and settles all its documents.

    Passes: p = 1 + ceil(max(0, n - size) / f). Calls: the sum over k < p of the number of windows of a pass over
    n - k f positions. With size 20, stride 10 and n = 100: 9 passes, 9 + 8 + ... + 1 = 45 calls.

    Attributes:
        size: Number of documents per window.
        stride: Number of positions by which the window moves.
        top_k: Number of best documents to rank; passes that start after these positions are omitted. None for all.
    """

    size: int = 20
    stride: int = 10
    top_k: int | None = None

    def __post_init__(self) -> None:
        """Check the options."""
        check_sliding_window(self.size, self.stride)
        if 2 * self.stride > self.size:
            raise UsageError(
                f"The stride of multipass is {self.stride}, and its window size is {self.size}",
                expected="a stride of at most half the window size",
                remedy=f"Use --stride {self.size // 2}; with a longer stride, adjacent windows share too few "
                "documents to settle any position",
            )

    def __call__(self, ranking: Ranking) -> Plan:
        """Yield one window at a time over the positions that are not final yet."""
        n = len(ranking)
        for first in self._pass_starts(n):
            for start, end in sliding_window_spans(n, self.size, self.stride, first):
                (order,) = yield [Window(ranking.query, ranking.docs[start:end])]
                ranking = ranking.reorder(start, order)
        return ranking

    def calls(self, n: int) -> int:
        """Return the number of windows of all passes."""
        return sum(count_sliding_windows(n - first, self.size, self.stride) for first in self._pass_starts(n))

    def _pass_starts(self, n: int) -> list[int]:
        """Return the start position of each pass; the last pass is the first one that fits in a single window."""
        settled = self.size - self.stride  # f in the formula: documents that two adjacent windows share
        starts = [0]
        depth = n if self.top_k is None else self.top_k
        while n - starts[-1] > self.size and starts[-1] + settled < depth:
            starts.append(starts[-1] + settled)
        return starts
