"""Files of rerank requests."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rerank.collections.requests import Requests
from rerank.errors import DataError, MissingResourceError
from rerank.types import Document, Query
from tests.raising import raises

SAMPLE = Path(__file__).resolve().parents[2] / "data" / "requests"


def made(folder: Path, *requests: Any, **options: Any) -> Requests:
    path = folder / "requests.jsonl"
    path.write_text("".join(f"{json.dumps(request)}\n" for request in requests), encoding="utf-8")
    return Requests(str(path), **options)


def test_rank_llm() -> None:
    collection = Requests(str(SAMPLE / "rank_llm.jsonl"))
    assert collection.queries() == [Query(id="t1", text="how to tune a drum"), Query(id="2", text="怎样给鼓调音")]
    run = collection.candidates()
    first, second = run["t1"], run["2"]
    assert first.docs == (
        Document(id="p1", title="Drums", text="Turn the rods a little at a time, crosswise."),
        Document(id="p2", text="A drum head of calf skin slackens in wet weather."),
        Document(id="p3", text="Cellos have four strings."),
    )
    assert first.scores == (9.5, 9.5, 1.25)
    assert second.doc_ids == ("p2", "p4", "2:3")
    assert second.scores == pytest.approx((1, 1 / 2, 1 / 3))
    assert [doc.id for doc in collection.docs()] == ["p1", "p2", "p3", "p4", "2:3"]


def test_rankgpt() -> None:
    run = Requests(str(SAMPLE / "rankgpt.json")).candidates()
    assert list(run) == ["11", "2"]
    assert run["11"].docs[1] == Document(id="p3", text="Cellos have four strings.")
    assert run["11"].scores == (9.5, 1.25)
    assert len(run["2"]) == 0
    assert run.name == "rankgpt"


def test_rankify() -> None:
    path = str(SAMPLE / "rankify.jsonl")
    (given_order,) = Requests(path).candidates().values()
    assert given_order.query == Query(id="1", text="how to tune a drum")
    assert given_order.doc_ids == ("p3", "p1")
    assert given_order.scores == pytest.approx((1, 1 / 2))
    (sorted_by_score,) = Requests(path, order="score").candidates().values()
    assert sorted_by_score.doc_ids == ("p1", "p3")
    assert sorted_by_score.scores == (9.5, 1.25)
    assert sorted_by_score.docs[0].title == "Drums"
    assert Requests(path).fingerprint != Requests(path, order="score").fingerprint


@pytest.mark.parametrize("layout", ["lines", "list", "indented"])
def test_layouts(tmp_path: Path, layout: str) -> None:
    requests = [{"query": {"text": f"question {n}", "qid": n}, "candidates": [{"docid": n, "doc": "x"}]} for n in "ab"]
    text = "\n".join(map(json.dumps, requests)) if layout == "lines" else json.dumps(requests)
    if layout == "indented":
        text = "\n  \n" + json.dumps(requests, indent=2)
    path = tmp_path / "requests.gz"
    path.write_bytes(gzip.compress(text.encode()))
    collection = Requests(str(path))
    assert collection.queries() == [Query(id="a", text="question a"), Query(id="b", text="question b")]
    assert list(collection.docs()) == [Document(id="a", text="x"), Document(id="b", text="x")]


@pytest.mark.parametrize("key", ["text", "segment", "contents", "content", "body", "passage"])
def test_names_of_the_text(tmp_path: Path, key: str) -> None:
    nested = {"query": "q", "candidates": [{"docid": "1", "doc": {key: "words", "title": None}}]}
    flat = {"query": "r", "candidates": [{"docid": "1", key: "words", "title": ""}]}
    assert list(made(tmp_path, nested, flat).docs()) == [Document(id="1", text="words")]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({"query": "q", "qid": 5}, "5"),
        ({"query": "q", "id": "x"}, "x"),
        ({"query": {"text": "q", "qid": ""}}, "1"),
        ({"query": {"text": "q", "qid": None}, "qid": "y"}, "y"),
        ({"query": {"query": "q", "id": "z"}}, "z"),
        ({"question": "q"}, "1"),
        ({"query": "q", "hits": [{"content": "c", "qid": 0, "docid": "d"}]}, "0"),
    ],
)
def test_ids_of_queries(tmp_path: Path, query: dict[str, Any], expected: str) -> None:
    request = query if "hits" in query else {"candidates": [], **query}
    assert made(tmp_path, request).queries() == [Query(id=expected, text="q")]


def test_ids_inside_the_document(tmp_path: Path) -> None:
    request = {"query": "q", "candidates": [{"doc": {"id": "inner", "text": "a"}}, {"docid": "", "doc": "b"}]}
    assert [doc.id for doc in made(tmp_path, request).docs()] == ["inner", "1:2"]


@pytest.mark.parametrize("scores", [[1, 2], [None, 1], [1, None], [None, None]])
def test_scores_that_do_not_fall_or_are_not_all_there_leave_the_order(tmp_path: Path, scores: list[Any]) -> None:
    candidates = [{"docid": str(n), "score": score, "doc": "x"} for n, score in enumerate(scores)]
    (ranking,) = made(tmp_path, {"query": "q", "candidates": candidates}).candidates().values()
    assert ranking.doc_ids == ("0", "1")
    assert ranking.scores == pytest.approx((1, 0.5))


def test_sorting_by_score_needs_all_scores(tmp_path: Path) -> None:
    request = {"query": "q", "candidates": [{"docid": "a", "score": 1, "doc": "x"}, {"docid": "b", "doc": "y"}]}
    with raises(DataError, "requests.jsonl:1", "2", "order=score"):
        made(tmp_path, request, order="score").candidates()


def test_judgments_come_from_a_file_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "qrels").write_text("t1 0 p1 3\n")
    collection = Requests(str(SAMPLE / "rank_llm.jsonl"), qrels=str(tmp_path / "qrels"), relevant=2)
    assert collection.qrels()["t1"] == {"p1": 3}
    assert collection.relevant == 2
    with pytest.raises(MissingResourceError):
        Requests(str(SAMPLE / "rank_llm.jsonl"), qrels="nowhere")


def test_two_texts_for_one_id(tmp_path: Path) -> None:
    collection = made(
        tmp_path,
        {"query": "q", "candidates": [{"docid": "a", "doc": "one"}]},
        {"query": "r", "candidates": [{"docid": "a", "doc": "two"}]},
    )
    assert [ranking.docs[0].text for ranking in collection.candidates().values()] == ["one", "two"]
    with raises(DataError, ":2", "'a'"):
        list(collection.docs())


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({}, r"no list of candidates among the keys \(none\)"),
        ({"query": "q"}, "no list of candidates among the keys query"),
        ({"query": "q", "candidates": {"a": 1}}, "no list of candidates"),
        ({"candidates": []}, "no text among the keys candidates; expected one of query, question"),
        ({"query": {"qid": 1}, "candidates": []}, "no text among the keys qid"),
        ({"query": 3, "candidates": []}, "3; expected a string"),
        ({"query": {"text": "q", "qid": "a b"}, "candidates": []}, "the query id is 'a b'"),
        ({"query": "q", "candidates": [3]}, "candidate 1 is 3; expected a string or an object"),
        ({"query": "q", "candidates": [{"docid": "a"}]}, "candidate 1: there is no text among the keys docid"),
        ({"query": "q", "candidates": [{"docid": "a", "doc": {}}]}, "candidate 1: there is no text among the keys"),
        ({"query": "q", "candidates": [{"docid": 1.5, "doc": "x"}]}, "candidate 1: the document id is 1.5"),
        (
            {"query": "q", "candidates": ["x", {"docid": "a", "doc": "x", "score": "high"}]},
            "candidate 2: the score is 'high'",
        ),
        ({"query": "q", "candidates": [{"docid": "a", "doc": "x", "score": True}]}, "score is True"),
        (
            {"query": "q", "candidates": [{"docid": "a", "doc": "x", "score": float("nan")}]},
            "score is nan; expected a fin",
        ),
        ({"query": "q", "candidates": [{"docid": "a", "doc": "x", "score": float("inf")}]}, "score is inf"),
        ({"query": "q", "candidates": [{"docid": "a", "doc": "x", "score": 10**400}]}, "score is 1000"),
        ({"query": "q", "candidates": [{"docid": "a", "doc": "x", "score": [1]}]}, r"score is \[1\]"),
        (
            {"query": "q", "candidates": [{"docid": "a", "doc": "x"}, {"docid": "a", "doc": "y"}]},
            "duplicate document 'a' in query '2'",
        ),
        (
            {
                "query": "q",
                "hits": [{"content": "x", "qid": 1, "docid": "a"}, {"content": "x", "qid": 2, "docid": "b"}],
            },
            "the hits belong to 2 queries, including 1, 2",
        ),
        ({"query": "q", "qid": "first", "candidates": []}, "duplicate query 'first'"),
    ],
)
def test_broken_requests_name_the_line(tmp_path: Path, request_: dict[str, Any], message: str) -> None:
    collection = made(tmp_path, {"query": {"text": "q", "qid": "first"}, "candidates": []}, request_)
    with pytest.raises(DataError, match=rf"requests\.jsonl:2.*{message}"):
        collection.candidates()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("[]", "contains an empty list"),
        ("[1]", "request 1 begins with 1; expected an object"),
        ('[{"query": "q"}', "invalid JSON"),
        ('{"query": "q"', ":1: invalid JSON"),
        ('[{"query": "q"}]', "request 1: there is no list of candidates"),
    ],
)
def test_broken_files(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "requests.json").write_text(text)
    with pytest.raises(DataError, match=rf"requests\.json.*{message}"):
        Requests(str(tmp_path / "requests.json")).queries()


def test_a_list_is_parsed_once(tmp_path: Path) -> None:
    path = tmp_path / "requests.json"
    path.write_text('[{"query": "q", "candidates": ["a"]}]')
    collection = Requests(str(path))
    queries = collection.queries()
    path.unlink()
    assert collection.queries() == queries
    assert len(collection.candidates()["1"]) == 1


SCORES = st.lists(st.floats(-1e6, 1e6), max_size=8)


@given(SCORES, st.booleans())
def test_no_document_is_lost(tmp_path_factory: pytest.TempPathFactory, scores: list[float], by_score: bool) -> None:
    candidates = [{"docid": f"d{n}", "score": score, "doc": f"text {n}"} for n, score in enumerate(scores)]
    collection = made(
        tmp_path_factory.mktemp("requests"),
        {"query": {"text": "q", "qid": "q"}, "candidates": candidates},
        order="score" if by_score else "given",
    )
    ranking = collection.candidates()["q"]
    expected = [f"d{n}" for n in range(len(scores))]
    assert sorted(ranking.doc_ids) == sorted(expected)
    if not by_score:
        assert list(ranking.doc_ids) == expected


@pytest.mark.shared
@pytest.mark.parametrize(
    ("path", "counts", "ids"),
    [
        ("BM25/retrieve_results_dl19.json.gz", (43, 4297), ("264014", "131843", "1106007", "5611210")),
        (
            "BM25/retrieve_results_dl21.json.gz",
            (53, 5299),
            ("646091", "1104300", "935353", "msmarco_passage_08_24643970"),
        ),
        (
            "SPLADE_P_P_ENSEMBLE_DISTIL/retrieve_results_dl19.json.gz",
            (43, 4300),
            ("264014", "131843", "1106007", "4834547"),
        ),
    ],
)
def test_real_candidates(shared: Path, path: str, counts: tuple[int, int], ids: tuple[str, ...]) -> None:
    collection = Requests(str(shared / "data" / "msmarco_candidates" / path))
    queries, run = collection.queries(), collection.candidates()
    assert (len(queries), sum(1 for _ in collection.docs())) == counts
    assert (queries[0].id, queries[9].id, queries[-1].id, run[ids[0]].doc_ids[0]) == ids
    assert {len(ranking) for ranking in run.values()} == {100}
    assert all(ranking.scores[0] > 1 for ranking in run.values()), "the scores are the file's own"
    assert "do goldfish grow" in {query.text for query in queries} or counts[0] == 53


@pytest.mark.shared
def test_text_is_left_as_it_is(shared: Path) -> None:
    path = shared / "data" / "msmarco_candidates" / "BM25" / "retrieve_results_dl19.json.gz"
    raw = json.loads(gzip.decompress(path.read_bytes()))
    texts = {hit["docid"]: hit["content"] for request in raw for hit in request["hits"]}
    assert {doc.id: doc.text for doc in Requests(str(path)).docs()} == texts
