from __future__ import annotations

from collections.abc import Iterator

import pytest

from rerank.errors import DataError, UsageError
from rerank.retrieval import open_first_stage
from rerank.types import Document, Query, Ranking, Run
from tests.raising import raises


class WithLists:
    name, language, fingerprint = "lists", "en", "0" * 64

    def __init__(self, *rankings: Ranking) -> None:
        self.rankings = rankings

    def docs(self) -> Iterator[Document]:
        return iter(())

    def candidates(self) -> Run:
        return Run(self.rankings, name="scoreddocs")


A, B = Document(id="a", text="first"), Document(id="b", text="second")
LISTS = WithLists(Ranking.from_order(Query(id="q1"), [B, A]), Ranking.from_order(Query(id="q2"), [A]))


def test_the_collections_own_lists() -> None:
    asked = [Query(id="q2", text="two"), Query(id="q1", text="one"), Query(id="q3")]
    run = open_first_stage("candidates", LISTS).search(asked, 10)
    assert run.name == "scoreddocs"
    assert [ranking.query for ranking in run.values()] == asked[:2]
    assert run["q1"].docs == (B, A)


def test_depth_cuts() -> None:
    assert open_first_stage("candidates", LISTS).search([Query(id="q1")], 1)["q1"].docs == (B,)


def test_lists_for_none_of_the_queries() -> None:
    with raises(DataError, "'lists'", "'q1'"):
        open_first_stage("candidates", LISTS).search([Query(id="x")], 1)


def test_bad_depth() -> None:
    with raises(UsageError, "-1"):
        open_first_stage("candidates", LISTS).search([Query(id="q1")], -1)


class WithoutLists:
    name, language, fingerprint = "bare", "en", "0" * 64

    def docs(self) -> Iterator[Document]:
        return iter([A])


@pytest.mark.parametrize("corpus", [WithoutLists(), WithLists()])
def test_collection_without_lists(corpus: WithoutLists) -> None:
    with raises(UsageError, "run:FILE"):
        open_first_stage("candidates", corpus)


def test_takes_no_argument() -> None:
    with pytest.raises(UsageError):
        open_first_stage("candidates:x", LISTS)
