"""Multi-pass sliding windows: complete listwise labels (Liu et al., ACL 2025, arXiv 2412.14574, section 4.1)."""

from __future__ import annotations

from dataclasses import dataclass

from rerank.errors import UsageError
from rerank.strategies.sliding import check_window, span_count, spans
from rerank.types import Plan, Ranking, Window


@dataclass(frozen=True, slots=True, kw_only=True)
class Multipass:
    """Repeat the sliding walk; each pass freezes the positions that it has settled.

    One pass carries the best ``size - stride`` documents of what it saw to the head of it: any two neighbouring
    windows share ``size - stride`` positions, so that many can be handed on. These are frozen and the next pass
    starts behind them. The last pass is a single window and settles all that it holds.

    With f = size - stride, passes p = 1 + ceil(max(0, n - size) / f); calls = the sum over k < p of the windows of
    a pass over n - k f positions. With 20/10 and n = 100: 9 passes, 9 + 8 + ... + 1 = 45 calls.

    Attributes:
        size: Documents in a window.
        stride: How far the window moves.
        top_k: How many of the best are wanted: passes that start behind them are left out. None for the whole order.

    Raises:
        UsageError: ``size < 2``, ``stride < 1`` or a stride above half the window. A window then hands on fewer
            documents than it moves, and passes would have to repeat before anything is settled.
    """

    size: int = 20
    stride: int = 10
    top_k: int | None = None

    def __post_init__(self) -> None:
        """Check the options."""
        check_window(self.size, self.stride)
        if 2 * self.stride > self.size:
            raise UsageError(
                f"Multipass with stride {self.stride} and window size {self.size}",
                expected="a stride of at most half the window",
                remedy=f"Use --stride {self.size // 2}: with a longer one a pass hands on fewer documents than it "
                "moves by, so it cannot sort",
            )

    def __call__(self, ranking: Ranking) -> Plan:
        """Yield one window at a time over the positions that are not frozen yet."""
        n = len(ranking)
        for first in self._starts(n):
            for start, end in spans(n, self.size, self.stride, first):
                (order,) = yield [Window(ranking.query, ranking.docs[start:end])]
                ranking = ranking.reorder(start, order)
        return ranking

    def calls(self, n: int) -> int:
        """The formula above."""
        return sum(span_count(n - first, self.size, self.stride) for first in self._starts(n))

    def _starts(self, n: int) -> list[int]:
        """First open position of each pass; the pass whose rest fits one window is the last."""
        frozen = self.size - self.stride
        starts = [0]
        wanted = n if self.top_k is None else self.top_k
        while n - starts[-1] > self.size and starts[-1] + frozen < wanted:
            starts.append(starts[-1] + frozen)
        return starts
