"""Splitting of windows that do not fit in the context into parts, which are ranked and then merged.

Parts are merged by repeatedly judging their heads (their first documents) together.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from itertools import pairwise

from rerank.types import Document, Order, Plan, Ranking, Window

#: Answer to a window: its order, or the number of its first documents (two or more) that fit in the context.
WindowAnswer = Order | int
#: A plan whose windows may be oversized. The answer that it is sent for such a window is the number of documents that
#: fit.
SplittingPlan = Generator[list[Window], list[WindowAnswer], Ranking]
#: The plan for one window: it yields the window or parts of it, is sent the answers, and returns the window's order.
_WindowPlan = Generator[list[Window], list[WindowAnswer], Order]
_PlanWindow = Callable[[Window], _WindowPlan]


class WindowSplitter:
    """A wrapper for a strategy's plans that splits oversized windows; the plan does not notice that they are split.

    Attributes:
        split: The windows that were ranked in parts, each with the number of its documents that fit in the context.
    """

    def __init__(self) -> None:
        """Create a splitter that has not split any windows."""
        self.split: list[tuple[Window, int]] = []

    def __call__(self, plan: Plan) -> SplittingPlan:
        """Return a plan that does the same as ``plan`` but ranks oversized windows in parts."""
        try:
            windows = next(plan)
            while True:
                windows = plan.send(
                    (yield from _run_split_windows_together([self._plan_window(window) for window in windows]))
                )
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]

    def _plan_window(self, window: Window) -> _WindowPlan:
        """Judge a window, in parts if it is oversized; the windows of parts and of merges may be oversized, too."""
        (answer,) = yield [window]
        if not isinstance(answer, int):
            return answer
        self.split.append((window, answer))
        return (yield from split_and_merge(window, answer, self._plan_window))


def split_and_merge(window: Window, capacity: int, plan_window: _PlanWindow) -> _WindowPlan:
    """Rank parts of at most ``capacity`` documents, then merge them by ranking their first documents (heads).

    The order of the heads is final only up to the point where the heads of one part are used up, because the next
    document of that part has not been compared yet. With a perfect judge, the result is the order of the whole window.

    The number of calls is ceil(n / capacity) for the parts, plus one per merge step; for example, two parts of 50
    documents with capacity 80 take 2 + 2 calls.
    """
    # ceil(n / capacity) parts of almost equal length.
    count = -(-len(window) // capacity)
    edges = [index * len(window) // count for index in range(count + 1)]
    parts = [list(range(start, end)) for start, end in pairwise(edges)]
    orders = yield from _run_split_windows_together([plan_window(_make_sub_window(window, part)) for part in parts])
    parts = [[part[position] for position in order] for part, order in zip(parts, orders, strict=True)]
    while len(parts) > 1:
        merged = yield from _merge_split_windows(window, parts[:capacity], capacity, plan_window)
        parts = [*parts[capacity:], merged]
    return tuple(parts[0])


def _merge_split_windows(
    window: Window, parts: list[list[int]], capacity: int, plan_window: _PlanWindow
) -> Generator[list[Window], list[WindowAnswer], list[int]]:
    merged: list[int] = []
    while len(parts) > 1 and len(merged) < window.depth:
        # Each part contributes the same number of heads, so that together they fit in one window.
        share = capacity // len(parts)
        heads = [part[:share] for part in parts]
        shown = [position for head in heads for position in head]
        order = yield from plan_window(_make_sub_window(window, shown))
        ranked = [shown[index] for index in order]
        final = _count_final_split_window_heads(ranked, heads, parts)
        merged += ranked[:final]
        removed = set(ranked[:final])
        # Documents that were ranked but are not final stay at the start of their part, in their new order.
        rank = {position: index for index, position in enumerate(ranked)}
        for part in parts:
            part[:share] = sorted((item for item in part[:share] if item not in removed), key=rank.__getitem__)
        parts = [part for part in parts if part]
    return merged + [position for part in parts for position in part]


def _count_final_split_window_heads(
    ranked: Sequence[int], heads: Sequence[Sequence[int]], parts: Sequence[Sequence[int]]
) -> int:
    """Return how many ranked heads (first documents of the parts) are final: up to where a part has none left."""
    # After the last head of a part, the next document of this part, which was not in the window, might come first. A
    # part all of whose documents were in the window sets no limit.
    rank = {position: index for index, position in enumerate(ranked)}
    ends = [
        max(rank[position] for position in head) + 1
        for head, part in zip(heads, parts, strict=True)
        if len(part) > len(head)
    ]
    return min(ends, default=len(ranked))


def _make_sub_window(window: Window, positions: Sequence[int]) -> Window:
    docs: tuple[Document, ...] = tuple(window.docs[position] for position in positions)
    return Window(window.query, docs, best=window.best)


def _run_split_windows_together(
    plans: Sequence[_WindowPlan],
) -> Generator[list[Window], list[WindowAnswer], list[Order]]:
    """Run the plans of several windows in lockstep, and return their orders.

    In each step, the next windows of all plans are yielded together.
    """
    results: dict[int, Order] = {}
    pending = {index: next(plan) for index, plan in enumerate(plans)}
    while pending:
        received = iter((yield [window for windows in pending.values() for window in windows]))
        answers = {index: [next(received) for _ in windows] for index, windows in pending.items()}
        pending = {}
        for index, answer in answers.items():
            try:
                pending[index] = plans[index].send(answer)
            except StopIteration as end:
                results[index] = end.value
    return [results[index] for index in range(len(plans))]
