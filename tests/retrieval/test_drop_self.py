"""BEIR's rule: a document with the query's own id does not come back, however the first stage is used."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from rerank.collections.base import SupportsDropSelf
from rerank.errors import UsageError
from rerank.retrieval import open_first_stage
from rerank.retrieval.base.stages import ExcludingRetriever, RunTransformer
from rerank.types import Document, Query, Ranking, Run
from tests.raising import raises

DOCS = tuple(Document(id=doc_id, text=f"text {doc_id}") for doc_id in "abcd")


@dataclass
class Lists:
    """One list, a b c d, for every letter; whether the rule holds is said."""

    drop_self: bool
    name: str = "lists"
    language: str = "en"
    fingerprint: str = "0" * 64

    def docs(self) -> Iterator[Document]:
        return iter(DOCS)

    def candidates(self) -> Run:
        return Run((Ranking.from_order(Query(id=query), DOCS) for query in "abz"), name="lists")


class Same(RunTransformer):
    def transform(self, run: Run) -> Run:
        return run


QUERIES = [Query(id="b"), Query(id="z")]


@pytest.mark.parametrize(
    ("drop_self", "k", "expected"),
    [(True, 1, ["a", "a"]), (True, 2, ["ac", "ab"]), (True, 4, ["acd", "abcd"]), (False, 2, ["ab", "ab"])],
)
def test_the_query_itself_is_dropped_and_costs_no_place(drop_self: bool, k: int, expected: list[str]) -> None:
    stage = open_first_stage("candidates", Lists(drop_self))
    for run in ((stage % k)(QUERIES), stage.search(QUERIES, k), (stage % k >> Same())(QUERIES)):
        assert ["".join(ranking.doc_ids) for ranking in run.values()] == expected
        assert run.name == "lists"


def test_depth_below_one() -> None:
    with raises(UsageError, "0"):
        ExcludingRetriever(retriever=open_first_stage("candidates", Lists(True))).search(QUERIES, 0)


def test_a_corpus_need_not_say() -> None:
    class Silent:
        name = "silent"

    assert not isinstance(Silent(), SupportsDropSelf)
    assert isinstance(Lists(False), SupportsDropSelf)
