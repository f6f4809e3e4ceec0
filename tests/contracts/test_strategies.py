"""The contract of strategies, checked for every registered strategy."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rerank.judges.base import OversizedWindow, Verdict
from rerank.pipeline.results import RerankOutcome
from rerank.strategies import open_strategy, strategies
from rerank.strategies.base import Strategy
from rerank.tasks import Request
from rerank.types import Document, Query, Ranking, Window
from tests.judging import SilentJudge, drive_silently
from tests.raising import raises

Sort = Callable[[Window], Sequence[int]]


class Judge(SilentJudge):
    """Orders windows by a function of the window; keeps what it was asked."""

    def __init__(self, sort: Sort) -> None:
        self.sort = sort
        self.asked: list[Window] = []

    def decide(self, window: Window) -> Verdict:
        self.asked.append(window)
        return Verdict(order=tuple(self.sort(window)), status="ok")


def by_number(window: Window) -> list[int]:
    return sorted(range(len(window)), key=lambda at: int(window.docs[at].id))


def only_the_best(window: Window) -> list[int]:
    """Order only the requested best documents; the others keep their order."""
    best = by_number(window)[: window.depth]
    return [*best, *(at for at in range(len(window)) if at not in best)]


def shuffled(window: Window) -> list[int]:
    return sorted(range(len(window)), key=lambda at: hash((len(window), at * 7919 % 13)))


def ranking(order: Sequence[int], query: str = "q") -> Ranking:
    return Ranking.from_order(Query(id=query, text="words"), [Document(id=str(number)) for number in order])


def go(strategy: Strategy, order: Sequence[int], sort: Sort = by_number) -> tuple[Ranking, Judge]:
    judge = Judge(sort)
    outcome = drive_silently([ranking(order)], strategy, judge)
    return outcome.rankings[0], judge


@pytest.fixture(params=sorted(strategies.names()))
def strategy(request: pytest.FixtureRequest) -> Strategy:
    return open_strategy(request.param)


@pytest.mark.parametrize("n", [0, 1])
def test_nothing_is_asked_about_nothing(strategy: Strategy, n: int) -> None:
    result, judge = go(strategy, range(n))
    assert judge.asked == []
    assert len(result) == n
    assert strategy.calls(n) == 0


@pytest.mark.parametrize("n", [2, 3, 9, 10, 11, 19, 20, 21, 30, 35, 95, 100, 101])
def test_every_document_is_seen_and_kept_and_calls_are_at_most_as_announced(strategy: Strategy, n: int) -> None:
    result, judge = go(strategy, range(n), shuffled)
    assert sorted(map(int, result.doc_ids)) == list(range(n))
    seen = {doc.id for window in judge.asked for doc in window.docs}
    assert seen == {str(number) for number in range(n)}
    assert len(judge.asked) <= strategy.calls(n)


@settings(max_examples=20, deadline=None)  # every strategy each time
@given(st.permutations(range(25)))
def test_a_perfect_judge_puts_the_best_first(order: list[int]) -> None:
    for name in strategies.names():
        result, _ = go(open_strategy(name), order)
        assert result.doc_ids[0] == "0"


@pytest.mark.parametrize("n", [2, 7, 21, 64, 100])
def test_windows_can_be_asked(strategy: Strategy, n: int) -> None:
    _, judge = go(strategy, range(n), shuffled)
    for window in judge.asked:
        assert len({doc.id for doc in window.docs}) == len(window) > 1
        assert window.depth >= 1


@settings(max_examples=20, deadline=None)
@given(st.permutations(range(30)), st.integers(1, 9))
def test_the_best_few_need_no_more_than_what_is_wanted(order: list[int], top_k: int) -> None:
    for name in strategies.names():
        if "top_k" in {field.name for field in fields(strategies.get(name))}:
            result, _ = go(open_strategy(f"{name},top_k={top_k}"), order, only_the_best)
            assert list(map(int, result.doc_ids[:top_k])) == list(range(top_k)), name


class Narrow(Judge):
    """A judge that can take few documents at a time; those with even numbers are three times as long as the others."""

    ROOM = 12

    def requests(self, window: Window) -> list[Request] | OversizedWindow:
        fits = self._fitting(window)
        return [] if fits == len(window) else OversizedWindow(fits)

    def _fitting(self, window: Window) -> int:
        ends = itertools.accumulate(1 if int(doc.id) % 2 else 3 for doc in window.docs)
        return sum(end <= self.ROOM for end in ends)


@pytest.mark.parametrize("order", [list(reversed(range(45))), [*range(1, 45, 2), *range(0, 45, 2)]])
def test_long_windows_are_split_and_nothing_changes(strategy: Strategy, order: list[int]) -> None:
    judge = Narrow(only_the_best)
    result = drive_silently([ranking(order)], strategy, judge).rankings[0]
    assert all(judge._fitting(window) == len(window) for window in judge.asked)
    assert sorted(map(int, result.doc_ids)) == list(range(45))
    assert result.doc_ids[0] == "0"


def test_batched_equals_one_by_one(strategy: Strategy) -> None:
    lists = [ranking(list(reversed(range(n))), f"q{n}") for n in (0, 1, 5, 23, 40)]
    together = drive_silently(lists, strategy, Judge(by_number))
    alone = tuple(drive_silently([one], strategy, Judge(by_number)).rankings[0] for one in lists)
    assert together.rankings == alone


def test_deterministic(strategy: Strategy) -> None:
    def once() -> RerankOutcome:
        return drive_silently([ranking(range(40))], strategy, Judge(shuffled))

    assert once() == once()


windowed = st.integers(2, 12).flatmap(lambda size: st.tuples(st.just(size), st.integers(1, size)))


@given(windowed, st.integers(0, 60), st.integers(1, 3))
def test_sliding_sees_every_document_and_counts_its_calls(options: tuple[int, int], n: int, passes: int) -> None:
    size, stride = options
    strategy = open_strategy(f"sliding,size={size},stride={stride},passes={passes}")
    result, judge = go(strategy, range(n), shuffled)
    windows = judge.asked
    assert all(2 <= len(window) <= size for window in windows)
    assert len(windows) == strategy.calls(n)
    assert sorted(map(int, result.doc_ids)) == list(range(n))
    if n > 1:
        assert {doc.id for window in windows for doc in window.docs} == {str(number) for number in range(n)}


@given(st.integers(2, 12).flatmap(lambda s: st.tuples(st.just(s), st.integers(1, s // 2))), st.data())
def test_multipass_sorts_completely(options: tuple[int, int], data: st.DataObject) -> None:
    size, stride = options
    order = data.draw(st.permutations(range(data.draw(st.integers(0, 45)))))
    strategy = open_strategy(f"multipass,size={size},stride={stride}")
    result, judge = go(strategy, order)
    assert list(map(int, result.doc_ids)) == sorted(order)
    assert len(judge.asked) == strategy.calls(len(order))


def test_published_counts() -> None:
    assert open_strategy("full").calls(100) == 1
    assert open_strategy("sliding").calls(100) == 9
    assert open_strategy("sliding,passes=3").calls(100) == 27
    assert open_strategy("multipass").calls(100) == 45
    assert open_strategy("multipass,top_k=20").calls(100) == 9 + 8
    assert open_strategy("multipass,top_k=21").calls(100) == 9 + 8 + 7
    assert open_strategy("tournament").calls(100) == 13
    assert open_strategy("tournament,passes=10").calls(100) == 130
    assert open_strategy("top_down").calls(100) == 7
    assert open_strategy("self_consistency,passes=20").calls(100) == 20
    assert open_strategy("all_pairs").calls(100) == 9900
    assert open_strategy("heapsort").calls(100) == 151
    assert open_strategy("bubblesort,size=2").calls(100) == 945
    assert open_strategy("tournament_graph").calls(100) == 13
    assert open_strategy("tournament_sort").calls(100) == 15


def test_sliding_windows_of_35_documents() -> None:
    _, judge = go(open_strategy("sliding"), range(35), lambda window: range(len(window)))
    spans = [(int(w.docs[0].id), int(w.docs[-1].id) + 1) for w in judge.asked]
    assert spans == [(15, 35), (5, 25), (0, 15)]


def test_ten_candidates_are_one_window() -> None:
    result, judge = go(open_strategy("sliding"), list(reversed(range(10))))
    assert len(judge.asked) == 1
    assert result.doc_ids == tuple(map(str, range(10)))


@pytest.mark.parametrize(
    ("selector", "message"),
    [
        ("sliding,size=1", "size is 1"),
        ("sliding,stride=0", "0 < stride"),
        ("sliding,stride=21", "--stride 10"),
        ("sliding,passes=0", "passes is 0"),
        ("multipass,size=20,stride=11", "--stride 10"),
        ("multipass,stride=0", "0 < stride"),
    ],
)
def test_options_that_cannot_work_are_refused(selector: str, message: str) -> None:
    from rerank.errors import UsageError

    with raises(UsageError, message):
        open_strategy(selector)


def test_strategies_have_the_protocol(strategy: Strategy) -> None:
    assert callable(strategy)
    assert isinstance(cast(object, strategy.calls(7)), int)
