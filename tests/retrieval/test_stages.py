"""Pipeline stages, searches by functions of users, and documents that must not be ranked."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from rerank import Reranker, Search
from rerank.collections import open_collection
from rerank.collections.base import SupportsDropSelf, SupportsExclusion
from rerank.errors import DataError, UsageError
from rerank.evaluation import evaluate_run
from rerank.experiment import run_experiment
from rerank.experiment.spec import Execution, RunSpec
from rerank.io.run_files import read_run
from rerank.retrieval import open_first_stage
from rerank.retrieval.base.stages import DEPTH, ExcludingRetriever, RetrieverSource, RunSource, RunTransformer
from rerank.types import EXCLUDED, Document, Qrels, Query, Ranking, Run
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


ROWS: list[dict[str, Any]] = [
    {"text": "low", "score": 1.0, "url": "a"},
    {"text": "high", "score": 3.0, "url": "b"},
    {"id": "own", "text": "middle", "score": 2.0, "url": "c"},
]
TEXTS = [Query(id="q1", text="one"), Query(id="q2", text="two")]


def find(query: str) -> Iterable[dict[str, Any]]:
    return ROWS


def test_documents_are_sorted_by_their_scores_and_have_unique_ids() -> None:
    run = (Search.of(find) % 2)(TEXTS)
    assert run.name == "find"
    assert run["q1"].doc_ids == ("q1:1", "own")
    assert run["q2"].doc_ids == ("q2:1", "own")
    assert run["q1"].scores == (3.0, 2.0)


def test_without_scores_the_order_is_kept_and_none_are_invented() -> None:
    run = Search.of(lambda query: [f"{query} b", Document(id="x", text=f"{query} a")])(TEXTS)
    assert run["q1"].doc_ids == ("q1:0", "x")
    assert run["q1"].scores == ()


def test_a_function_is_a_source_of_a_pipeline() -> None:
    run = (Search.of(find) >> Reranker.from_pretrained("fake:reversed") % 1)(TEXTS)
    assert run["q1"].doc_ids == ("q1:0",)
    assert run["q1"].docs[0].source == {"url": "a"}


def test_ids_of_the_user_are_kept() -> None:
    run = Search.of(lambda query: [{"id": "0", "text": "a"}, {"id": "7", "text": "b"}, {"id": 2, "text": "c"}])(TEXTS)
    assert run["q1"].doc_ids == ("0", "7", "2")


def test_a_score_for_some_documents_only_is_refused() -> None:
    with raises(DataError, "Document 1", "no score"):
        Search.of(lambda query: [{"text": "a", "score": 1}, {"text": "b"}])(TEXTS)


LETTER_DOCS = tuple(Document(id=doc_id, text=f"text {doc_id}") for doc_id in "abcd")


@dataclass
class Lists:
    """One list, a b c d, for every letter; whether the rule holds is said."""

    drop_self: bool
    name: str = "lists"
    language: str = "en"
    fingerprint: str = "0" * 64

    def docs(self) -> Iterator[Document]:
        return iter(LETTER_DOCS)

    def candidates(self) -> Run:
        return Run((Ranking.from_order(Query(id=query), LETTER_DOCS) for query in "abz"), name="lists")


class Same(RunTransformer):
    def transform(self, run: Run) -> Run:
        return run


LETTERS = [Query(id="b"), Query(id="z")]


@pytest.mark.parametrize(
    ("drop_self", "k", "expected"),
    [(True, 1, ["a", "a"]), (True, 2, ["ac", "ab"]), (True, 4, ["acd", "abcd"]), (False, 2, ["ab", "ab"])],
)
def test_the_query_itself_is_dropped_and_costs_no_place(drop_self: bool, k: int, expected: list[str]) -> None:
    stage = open_first_stage("candidates", Lists(drop_self))
    for run in ((stage % k)(LETTERS), stage.search(LETTERS, k), (stage % k >> Same())(LETTERS)):
        assert ["".join(ranking.doc_ids) for ranking in run.values()] == expected
        assert run.name == "lists"


def test_depth_of_a_search_below_one() -> None:
    with raises(UsageError, "0"):
        ExcludingRetriever(retriever=open_first_stage("candidates", Lists(True))).search(LETTERS, 0)


DATA = Path(__file__).resolve().parents[2] / "data"
DOCS = tuple(Document(id=f"d{n:02}", text=f"text {n}") for n in range(40))


@dataclass
class Sorted:
    """Finds all documents in one order, and notes how deep it was searched."""

    depths: list[tuple[int, int]] = field(default_factory=list)

    def search(self, queries: Sequence[Query], k: int) -> Run:
        self.depths.append((len(queries), k))
        return Run((Ranking.from_order(query, DOCS).top(k) for query in queries), name="sorted")


def names(*numbers: int) -> frozenset[str]:
    return frozenset(f"d{n:02}" for n in numbers)


@pytest.mark.parametrize(
    ("excluded", "drops_self", "k", "expected", "depths"),
    [
        ({}, True, 3, {"d01": [0, 2, 3], "q": [0, 1, 2]}, [(2, 4)]),
        ({"q": names(1)}, False, 3, {"d01": [0, 1, 2], "q": [0, 2, 3]}, [(2, 4)]),
        ({"q": names(*range(10))}, False, 3, {"d01": [0, 1, 2], "q": [10, 11, 12]}, [(2, 6), (1, 13)]),
        ({"q": names(*range(20, 40))}, False, 3, {"d01": [0, 1, 2], "q": [0, 1, 2]}, [(2, 6)]),
        ({"q": names(*range(39))}, False, 50, {"d01": list(range(40)), "q": [39]}, [(2, 89)]),
    ],
    ids=["self", "one", "the first ten", "the last twenty", "nearly all"],
)
def test_excluded_documents_cost_no_rank(
    excluded: Mapping[str, frozenset[str]],
    drops_self: bool,
    k: int,
    expected: dict[str, list[int]],
    depths: list[tuple[int, int]],
) -> None:
    found = Sorted()
    search = ExcludingRetriever(retriever=found, excluded=excluded, drops_self=drops_self)
    run = search.search([Query(id="d01"), Query(id="q")], k)
    assert {query: [int(doc[1:]) for doc in ranking.doc_ids] for query, ranking in run.items()} == expected
    assert list(run) == ["d01", "q"]
    assert found.depths == depths


def test_a_collection_of_files(tmp_path: Path) -> None:
    collection = open_collection(f"jsonl:{DATA / 'bright'}")
    assert isinstance(collection, SupportsExclusion)
    assert collection.excluded() == {"0": frozenset({"garden/frost_2.txt"})}
    run = open_first_stage("bm25", collection).search(collection.queries(), 10)
    assert "garden/frost_2.txt" not in run["0"].doc_ids
    spec = RunSpec.make({"collection": f"jsonl:{DATA / 'bright'}", "model": "fake:reversed", "method": "fullrank"})
    run_experiment(spec, Execution(out=tmp_path / "run"))
    assert "garden/frost_2.txt" not in read_run(tmp_path / "run/run.trec")["0"].doc_ids
    assert "garden/frost_2.txt 0 -100" not in (tmp_path / "run/qrels.trec").read_text()


def test_scores_of_a_run_that_has_excluded_documents() -> None:
    qrels = Qrels({"q": {"a": 1, "x": EXCLUDED, "y": EXCLUDED}, "r": {"a": 1}})
    runs = [
        Run([Ranking.from_order(Query(id=q), [Document(id=d, text="") for d in docs]) for q in "qr"])
        for docs in ("xayb", "ab")
    ]
    measures = ["nDCG@2", "RR@10", "P@2", "NumRet", "Judged@2"]
    mixed, clean = (evaluate_run(qrels, run, measures) for run in runs)
    assert {name: values["q"] for name, values in mixed.values.items()} == {
        name: values["q"] for name, values in clean.values.items()
    }
    assert mixed.values["RR@10"]["r"] == 0.5  # for another query, x is an ordinary document
    assert qrels.judged() == Qrels({"q": {"a": 1}, "r": {"a": 1}})


class Silent:
    name, language, fingerprint = "silent", "en", "0" * 64

    def docs(self) -> Iterator[Document]:
        return iter(DOCS)


def test_a_corpus_need_not_exclude_anything_or_have_the_rule_of_the_querys_own_document() -> None:
    assert not isinstance(Silent(), SupportsExclusion | SupportsDropSelf)
    assert isinstance(Lists(False), SupportsDropSelf)
