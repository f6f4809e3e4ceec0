"""Lists of numbered documents, and judges that are functions of a window."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from rerank.judges.base import Verdict
from rerank.strategies import Strategy, open_strategy
from rerank.types import Document, Plan, Query, Ranking, Window
from tests.judging import SilentJudge, drive_silently

Sort = Callable[[Window], Sequence[int]]


def numbers(window: Window) -> list[int]:
    """The documents of a window, by number: the smallest is the best."""
    return [int(doc.id) for doc in window.docs]


def perfect(window: Window) -> list[int]:
    """The best that are asked for in order, the rest as given."""
    shown = numbers(window)
    best = sorted(range(len(shown)), key=shown.__getitem__)[: window.depth]
    return [*best, *(at for at in range(len(shown)) if at not in best)]


class Played(SilentJudge):
    """A strategy that was run over one list.

    Attributes:
        result: The documents by number, best first.
        rounds: The windows of each round as numbers.
        windows: The same as windows, one list.
        calls: How many windows there were.
        bound: How many were announced.
    """

    def __init__(self, selector: str, order: Sequence[int], sort: Sort = perfect, *, query: str = "q") -> None:
        self.rounds: list[list[list[int]]] = []
        self.windows: list[Window] = []
        self._sort = sort
        strategy = open_strategy(selector)
        given = Ranking.from_order(Query(id=query, text="words"), [Document(id=str(number)) for number in order])
        outcome = drive_silently([given], self._recorded(strategy), self)
        self.result = list(map(int, outcome.rankings[0].doc_ids))
        self.calls = len(self.windows)
        self.bound = strategy.calls(len(order))

    def decide(self, window: Window) -> Verdict:
        self.windows.append(window)
        return Verdict(order=tuple(self._sort(window)), status="ok")

    def _recorded(self, strategy: Strategy) -> Strategy:
        """Return the strategy, which also adds its rounds of windows to `rounds`."""
        rounds = self.rounds

        class Recorded:
            def __call__(self, ranking: Ranking) -> Plan:
                plan = strategy(ranking)
                try:
                    windows = next(plan)
                    while True:
                        rounds.append(list(map(numbers, windows)))
                        windows = plan.send((yield windows))
                except StopIteration as end:
                    return end.value  # type: ignore[no-any-return]

            def calls(self, n: int) -> int:
                return strategy.calls(n)

        return Recorded()


@pytest.fixture
def play() -> type[Played]:
    """Run a strategy: ``play(selector, order, sort)``."""
    return Played
