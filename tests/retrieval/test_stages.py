from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from rerank.errors import UsageError
from rerank.retrieval.base.stages import DEPTH, RetrieverSource, RunSource, RunTransformer
from rerank.types import Document, Query, Ranking, Run
from tests.raising import raises

QUERIES = [Query(id="a", text="x"), Query(id="b")]


@dataclass
class Numbers:
    """Finds documents 0, 1, 2 ... and notes how many were asked for."""

    asked: list[int] = field(default_factory=list)

    def search(self, queries: Sequence[Query], k: int) -> Run:
        self.asked.append(k)
        docs = [Document(id=str(i)) for i in range(k)]
        return Run((Ranking.from_order(query, docs) for query in queries), name="numbers")


class Reverse(RunTransformer):
    def transform(self, run: Run) -> Run:
        return Run((Ranking.from_order(r.query, r.docs[::-1]) for r in run.values()), name="reversed")


def ids(run: Run) -> list[tuple[str, ...]]:
    return [ranking.doc_ids for ranking in run.values()]


def test_cut_before_and_after_a_reranker() -> None:
    numbers = Numbers()
    run = (RetrieverSource(numbers) % 5 >> Reverse() % 2)(QUERIES)
    assert ids(run) == [("4", "3")] * 2
    assert (run.name, list(run), numbers.asked) == ("reversed", ["a", "b"], [5])


def test_search_without_a_cut_has_the_default_depth() -> None:
    assert [len(ranking) for ranking in RetrieverSource(Numbers())(QUERIES).values()] == [DEPTH, DEPTH]


def test_cut_of_a_search_asks_for_less_or_more() -> None:
    numbers = Numbers()
    (RetrieverSource(numbers) % 3)(QUERIES)
    (RetrieverSource(numbers) % 500)(QUERIES)
    assert numbers.asked == [3, 500]


def test_source_is_a_retriever_too() -> None:
    assert ids(RetrieverSource(Numbers()).search(QUERIES, 2)) == [("0", "1")] * 2


def test_cut_of_a_whole_pipeline() -> None:
    assert ids(((RetrieverSource(Numbers()) % 5 >> Reverse()) % 1)(QUERIES)) == [("4",)] * 2


def test_joining_is_associative() -> None:
    search, first, second = RetrieverSource(Numbers()) % 6, Reverse() % 4, Reverse() % 2
    assert ids((search >> first >> second)(QUERIES)) == ids((search >> (first >> second))(QUERIES)) == [("2", "3")] * 2


def test_transformer_alone() -> None:
    run = (RetrieverSource(Numbers()) % 3)(QUERIES)
    assert ids((Reverse() >> Reverse() % 2).transform(run)) == [("0", "1")] * 2
    assert ids(run) == [("0", "1", "2")] * 2


@pytest.mark.parametrize("k", [0, -3])
@pytest.mark.parametrize("stage", [RetrieverSource(Numbers()), RetrieverSource(Numbers()) >> Reverse(), Reverse()])
def test_depth_below_one(stage: RunSource | RunTransformer, k: int) -> None:
    with raises(UsageError, k):
        _ = stage % k


@pytest.mark.parametrize("stage", [RetrieverSource(Numbers()), Reverse()])
def test_only_transformers_come_after(stage: RunSource | RunTransformer) -> None:
    with pytest.raises(TypeError):
        _ = stage >> Numbers()  # type: ignore[operator]
