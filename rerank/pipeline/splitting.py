"""Windows that are too long for a model: ranked in parts, and the parts merged by asking about their heads.

Knows windows and how many of their documents fit, not why.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from itertools import pairwise

from rerank.types import Document, Order, Plan, Ranking, Window

#: What comes back for a window: its order, or how many of its documents fit (two or more), counted from its head.
Answer = Order | int
#: A plan that can be told that a window is too long.
FittingPlan = Generator[list[Window], list[Answer], Ranking]
#: The same for one window: what it asks, what it is sent, and the order it ends with.
_Part = Generator[list[Window], list[Answer], Order]
_Ask = Callable[[Window], _Part]


class Fitting:
    """Makes plans ask only what fits; to them it looks as if the long window had been judged.

    Attributes:
        split: The windows that were ranked in parts, and how many of their documents fit.
    """

    def __init__(self) -> None:
        """Start with nothing split."""
        self.split: list[tuple[Window, int]] = []

    def __call__(self, plan: Plan) -> FittingPlan:
        """The same plan, its windows ranked in parts where they are too long."""
        try:
            wanted = next(plan)
            while True:
                wanted = plan.send((yield from _together([self._ask(window) for window in wanted])))
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]

    def _ask(self, window: Window) -> _Part:
        """Ask about a window; parts and merges of one that is too long may be too long in turn."""
        (answer,) = yield [window]
        if not isinstance(answer, int):
            return answer
        self.split.append((window, answer))
        return (yield from split_and_merge(window, answer, self._ask))


def split_and_merge(window: Window, room: int, ask: _Ask) -> _Part:
    """Rank parts of at most ``room`` documents, then merge them by ranking their heads together.

    Of the heads' order only the beginning is final, up to where one part has no head left in it: its next document
    has not been compared yet. With a judge that makes no mistakes the result is the order of the whole window.

    Calls: ceil(n / room) for the parts, then one a merging step; two parts of 50 with room 80 take 2 + 2.
    """
    count = -(-len(window) // room)
    edges = [at * len(window) // count for at in range(count + 1)]
    lists = [list(range(start, end)) for start, end in pairwise(edges)]
    orders = yield from _together([ask(_of(window, part)) for part in lists])
    lists = [[part[at] for at in order] for part, order in zip(lists, orders, strict=True)]
    while len(lists) > 1:
        merged = yield from _merge(window, lists[:room], room, ask)
        lists = [*lists[room:], merged]
    return tuple(lists[0])


def _merge(
    window: Window, lists: list[list[int]], room: int, ask: _Ask
) -> Generator[list[Window], list[Answer], list[int]]:
    done: list[int] = []
    while len(lists) > 1 and len(done) < window.wanted:
        share = room // len(lists)
        heads = [part[:share] for part in lists]
        shown = [at for head in heads for at in head]
        order = yield from ask(_of(window, shown))
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


def _together(parts: Sequence[_Part]) -> Generator[list[Window], list[Answer], list[Order]]:
    """Run the plans of several windows side by side: what they ask next is asked together."""
    results: dict[int, Order] = {}
    asked = {at: next(part) for at, part in enumerate(parts)}
    while asked:
        given = iter((yield [window for windows in asked.values() for window in windows]))
        answers = {at: [next(given) for _ in windows] for at, windows in asked.items()}
        asked = {}
        for at, answer in answers.items():
            try:
                asked[at] = parts[at].send(answer)
            except StopIteration as end:
                results[at] = end.value
    return [results[at] for at in range(len(parts))]
