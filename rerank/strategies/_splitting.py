"""Windows that are too long for a model: ranked in parts, and the parts merged by asking about their heads.

Knows windows and how many documents fit, not why.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from itertools import pairwise

from rerank.types import Document, Order, Plan, Window

#: A plan for one window: what it asks, what it is sent, and the order it ends with.
_Part = Generator[list[Window], list[Order], Order]
#: How many documents of a window fit, counted from its head. Below two, it is asked as it is, and the judge says why.
Capacity = Callable[[Window], int]


class Fitting:
    """Makes plans ask only what fits; to them it looks as if the long window had been judged.

    Attributes:
        split: How many windows were ranked in parts so far.
    """

    def __init__(self) -> None:
        """Start with nothing split."""
        self.split = 0

    def __call__(self, plan: Plan, capacity: Capacity) -> Plan:
        """The same plan, its windows no longer than what fits."""
        try:
            wanted = next(plan)
            while True:
                parts = [self._part(window, capacity(window)) for window in wanted]
                wanted = plan.send((yield from _together(parts)))
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]

    def _part(self, window: Window, room: int) -> _Part:
        if 1 < room < len(window):
            self.split += 1
            return split_and_merge(window, room)
        return _as_it_is(window)


def split_and_merge(window: Window, room: int) -> _Part:
    """Rank parts of at most ``room`` documents, then merge them by ranking their heads together.

    Of the heads' order only the beginning is final, up to where one part has no head left in it: its next document
    has not been compared yet. With a judge that makes no mistakes the result is the order of the whole window.

    Calls: ceil(n / room) for the parts, then one a merging step; two parts of 50 with room 80 take 2 + 2.
    """
    count = -(-len(window) // room)
    edges = [at * len(window) // count for at in range(count + 1)]
    lists = [list(range(start, end)) for start, end in pairwise(edges)]
    orders = yield [_of(window, part) for part in lists]
    lists = [[part[at] for at in order] for part, order in zip(lists, orders, strict=True)]
    while len(lists) > 1:
        merged = yield from _merge(window, lists[:room], room)
        lists = [*lists[room:], merged]
    return tuple(lists[0])


def _merge(window: Window, lists: list[list[int]], room: int) -> Generator[list[Window], list[Order], list[int]]:
    done: list[int] = []
    while len(lists) > 1 and len(done) < window.wanted:
        share = room // len(lists)
        heads = [part[:share] for part in lists]
        shown = [at for head in heads for at in head]
        (order,) = yield [_of(window, shown)]
        ranked = [shown[at] for at in order]
        final = _settled(ranked, heads, lists)
        done += ranked[:final]
        taken = set(ranked[:final])
        # What was ranked but is not final stays at the head of its list, in the order it has now.
        place = {at: rank for rank, at in enumerate(ranked)}
        lists = [
            [*sorted((at for at in part[:share] if at not in taken), key=place.__getitem__), *part[share:]]
            for part in lists
        ]
        lists = [part for part in lists if part]
    return done + [at for part in lists for at in part]


def _settled(ranked: Sequence[int], heads: Sequence[Sequence[int]], lists: Sequence[Sequence[int]]) -> int:
    """How much of the heads' order is final: all before the first list with more behind it runs out of heads."""
    place = {at: rank for rank, at in enumerate(ranked)}
    ends = [max(place[at] for at in head) + 1 for head, part in zip(heads, lists, strict=True) if len(part) > len(head)]
    return min(ends, default=len(ranked))


def _of(window: Window, positions: Sequence[int]) -> Window:
    docs: tuple[Document, ...] = tuple(window.docs[at] for at in positions)
    return Window(window.query, docs, best=window.best)


def _as_it_is(window: Window) -> _Part:
    (order,) = yield [window]
    return order


def _together(parts: Sequence[_Part]) -> Generator[list[Window], list[Order], list[Order]]:
    """Run the plans of several windows side by side: what they ask next is asked together."""
    results: dict[int, Order] = {}
    asked = {at: next(part) for at, part in enumerate(parts)}
    while asked:
        orders = iter((yield [window for windows in asked.values() for window in windows]))
        answers = {at: [next(orders) for _ in windows] for at, windows in asked.items()}
        asked = {}
        for at, answer in answers.items():
            try:
                asked[at] = parts[at].send(answer)
            except StopIteration as end:
                results[at] = end.value
    return [results[at] for at in range(len(parts))]
