"""The spans of windows of one pass, and how many documents each window asks for."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from rerank.strategies import open_strategy
from rerank.strategies.base import window_spans
from rerank.types import Document, Query, Ranking


@given(n=st.integers(0, 40), size=st.integers(2, 12), stride=st.integers(1, 12), first=st.integers(0, 10))
@example(n=3, size=2, stride=2, first=0)
def test_spans_cover_every_position_from_tail_to_head(n: int, size: int, stride: int, first: int) -> None:
    spans = list(window_spans(n, size, min(stride, size), first))
    if n - first < 2:
        assert spans == []
        return
    assert {position for start, end in spans for position in range(start, end)} == set(range(first, n))
    assert spans == sorted(spans, reverse=True)
    assert spans[-1][0] == first
    assert all(2 <= end - start <= size for start, end in spans)


def test_a_comparison_asks_for_the_best_only() -> None:
    ranking = Ranking(Query(id="q", text="q"), tuple(Document(id=str(n), text=str(n)) for n in range(3)))
    for name in ("all_pairs", "bubblesort", "heapsort"):
        assert {window.best for window in next(open_strategy(name)(ranking))} == {1}
