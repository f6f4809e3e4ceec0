"""The whole list in one window, sliding windows from the tail to the head, passes of them, and windows with a pivot.

Sources: full ranking and multi-pass sliding windows: Liu et al., ACL 2025, arXiv 2412.14574, sections 3 and 4.1;
sliding windows: Sun et al., EMNLP 2023, arXiv 2304.09542, section 3.2 (RankGPT); top-down partitioning, in its parallel
form: Parry, MacAvaney and Ganguly, arXiv 2405.14589.
"""

import math
from dataclasses import dataclass

from rerank.errors import UsageError, ensure
from rerank.strategies.base import check_passes, check_window, count_windows, window_spans
from rerank.types import Document, Plan, Ranking, Window


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


@dataclass(frozen=True, slots=True, kw_only=True)
class TopDown:
    """A strategy that ranks the head, compares the other documents with a pivot, and reranks the better ones.

    The head is a window with the first ``size`` documents. After it has been ranked, its middle document is the pivot.
    All documents behind the head are judged together with the pivot, ``size - 1`` of them per window. Documents that
    are ranked above the pivot become candidates, as do the documents above the pivot in the head. The candidates are
    sorted by the rank that each has in its window.

    If no document from behind the head is ranked above the pivot, the order of the head remains. Otherwise, the first
    ``budget`` candidates are ranked again, in the same way if there are more than ``size``. All other documents follow
    in blocks, the block of the head before the block of the other windows.

    Maximum number of calls for n documents: c(n) = 1 for 2 <= n <= size. For larger n, c(n) = 1 + m + c(b), where
    m = ceil((n - size) / (size - 1)) is the number of windows behind the head, b = min(max(budget, m + 1),
    n - 1 - size + pivot) is the number of documents ranked again, and pivot is the rank of the pivot. With n = 100:
    1 + 5 + 1 = 7 calls in 3 rounds, or 6 calls if no document is better than the pivot.

    With a perfect judge, the best document always comes first, and with a budget of n, all ranks up to the pivot are
    correct.
    """

    size: int = 20  # number of documents per window
    #: Maximum number of documents ranked again, raised to one per window if it is lower; None for ``size``. If the
    #: first stage is poor, use the length of the list, so that every document above the pivot is reranked.
    budget: int | None = None
    #: Number of best documents to rank. It is also the rank of the pivot, up to ``size - 1``; None for half a window.
    top_k: int | None = None

    def __post_init__(self) -> None:
        ensure(self.size >= 3, f"The window size is {self.size}", expected="at least 3: the pivot and two others")
        for name, value in (("budget", self.budget), ("top_k", self.top_k)):
            ensure(value is None or value >= 1, f"{name} is {value}", expected="at least 1")

    def __call__(self, ranking: Ranking) -> Plan:
        docs, settled, rank, step = list(ranking.docs), list[Document](), self._pivot_rank, self.size - 1
        while len(docs) > self.size:
            head_best = None if self.top_k is None else rank
            (order,) = yield [Window(ranking.query, tuple(docs[: self.size]), best=head_best)]
            head = [docs[position] for position in order]
            above, pivot, below = head[: rank - 1], head[rank - 1], head[rank:]
            # The pivot is shown first, so a window without a valid answer, which keeps its order, promotes no document.
            windows = [
                Window(ranking.query, (pivot, *docs[start : start + step]))
                for start in range(self.size, len(docs), step)
            ]
            better, worse = [], list[Document]()  # better than the pivot per window, and all that are worse
            for window, order in zip(windows, (yield windows), strict=True):
                better.append([window.docs[position] for position in order[: order.index(0)]])
                worse += [window.docs[position] for position in order[order.index(0) + 1 :]]
            settled = [pivot, *below, *worse, *settled]
            if not any(better):
                return Ranking.from_order(ranking.query, [*above, *settled])
            # Round robin over the windows: the first document of each window, then the second of each, and so on.
            ranked = [entry for part in (above, *better) for entry in enumerate(part)]
            candidates = [doc for _, doc in sorted(ranked, key=lambda entry: entry[0])]
            budget = self._budget(len(docs))
            docs, settled = candidates[:budget], [*candidates[budget:], *settled]
        if len(docs) > 1:
            (order,) = yield [Window(ranking.query, tuple(docs), best=self.top_k)]
            docs = [docs[position] for position in order]
        return Ranking.from_order(ranking.query, [*docs, *settled])

    def calls(self, n: int) -> int:
        calls = 0
        while n > self.size:
            # c(n) = 1 + m + c(b): the head, the windows with the pivot, and the documents ranked again
            calls += 1 + self._windows(n)
            n = min(self._budget(n), n - 1 - self.size + self._pivot_rank)
        return calls + (n > 1)

    @property
    def _pivot_rank(self) -> int:
        return min(self.top_k or self.size // 2, self.size - 1)

    def _windows(self, n: int) -> int:
        return math.ceil((n - self.size) / (self.size - 1))

    def _budget(self, n: int) -> int:
        # m + 1 keeps the best document of each of the m windows, and the best one of the head.
        return max(self.budget or self.size, self._windows(n) + 1)
