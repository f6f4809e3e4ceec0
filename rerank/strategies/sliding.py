"""The whole list in one window, sliding windows from the tail to the head, and passes of them.

Sources: full ranking and multi-pass sliding windows: Liu et al., ACL 2025, arXiv 2412.14574, sections 3 and 4.1;
sliding windows: Sun et al., EMNLP 2023, arXiv 2304.09542, section 3.2 (RankGPT).
"""

from __future__ import annotations

from dataclasses import dataclass

from rerank.errors import UsageError
from rerank.strategies.base import check_passes, check_window, count_windows, window_spans
from rerank.types import Plan, Ranking, Window


@dataclass(frozen=True, slots=True, kw_only=True)
class Full:
    """A strategy that judges all documents in one window.

    Calls for n documents: 1 if n > 1, else 0. A list that is too long for the model's context takes more calls: it
    is divided into parts, which are ranked and merged (`rerank.pipeline.driver`). The summary of the run
    counts such windows.
    """

    top_k: int | None = None  # number of best documents to rank; None for all

    def __call__(self, ranking: Ranking) -> Plan:
        if len(ranking) > 1:
            (order,) = yield [Window(ranking.query, ranking.docs, best=self.top_k)]
            ranking = ranking.reorder(0, order)
        return ranking

    def calls(self, n: int) -> int:
        return int(n > 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sliding:
    """A strategy that judges overlapping windows from the tail to the head, so that relevant documents move up.

    Calls for n documents: passes x (1 + ceil((n - size) / stride)) for n > size, passes for 2 <= n <= size.
    With size 20, stride 10 and n = 100, this is 9 per pass.
    """

    size: int = 20  # number of documents per window
    stride: int = 10  # number of positions by which the window moves
    passes: int = 1  # number of passes; each pass works on the output of the previous one
    #: Number of best documents to rank; None for all. Each window then ranks only its own ``top_k`` best documents. At
    #: most ``size - stride`` of them move on to the next window in any case.
    top_k: int | None = None

    def __post_init__(self) -> None:
        check_window(self.size, self.stride)
        check_passes(self.passes)

    def __call__(self, ranking: Ranking) -> Plan:
        """Yield one window at a time; each depends on the result of the previous one."""
        for _ in range(self.passes):
            for start, end in window_spans(len(ranking), self.size, self.stride):
                (order,) = yield [Window(ranking.query, ranking.docs[start:end], best=self.top_k)]
                ranking = ranking.reorder(start, order)
        return ranking

    def calls(self, n: int) -> int:
        return self.passes * count_windows(n, self.size, self.stride)


@dataclass(frozen=True, slots=True, kw_only=True)
class Multipass:
    """A strategy that repeats sliding-window passes; the first positions of each pass are then final.

    Adjacent windows share f = size - stride positions, so one pass moves the best f documents of its range to the head
    of the range. These documents keep their positions, and the next pass starts after them. The last pass is a single
    window and settles all its documents.

    Passes: p = 1 + ceil(max(0, n - size) / f). Calls: the sum over k < p of the number of windows of a pass over
    n - k f positions. With size 20, stride 10 and n = 100: 9 passes, 9 + 8 + ... + 1 = 45 calls.
    """

    size: int = 20  # number of documents per window
    stride: int = 10  # number of positions by which the window moves
    #: Number of best documents to rank; passes that start after these positions are omitted. None for all.
    top_k: int | None = None

    def __post_init__(self) -> None:
        check_window(self.size, self.stride)
        if 2 * self.stride > self.size:
            raise UsageError(
                f"The stride of multipass is {self.stride}, and its window size is {self.size}",
                expected="a stride of at most half the window size",
                remedy=f"Use --stride {self.size // 2}; with a longer stride, adjacent windows share too few "
                "documents to settle any position",
            )

    def __call__(self, ranking: Ranking) -> Plan:
        n = len(ranking)
        for first in self._pass_starts(n):
            for start, end in window_spans(n, self.size, self.stride, first):
                (order,) = yield [Window(ranking.query, ranking.docs[start:end])]
                ranking = ranking.reorder(start, order)
        return ranking

    def calls(self, n: int) -> int:
        return sum(count_windows(n - first, self.size, self.stride) for first in self._pass_starts(n))

    def _pass_starts(self, n: int) -> list[int]:
        """Return the start position of each pass; the last pass is the first one that fits in a single window."""
        settled = self.size - self.stride  # f in the formula: documents that two adjacent windows share
        starts = [0]
        depth = n if self.top_k is None else self.top_k
        while n - starts[-1] > self.size and starts[-1] + settled < depth:
            starts.append(starts[-1] + settled)
        return starts
