"""The rerank endpoints: each dialect's shape, marks of degraded answers, limits and errors."""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Sequence
from typing import Any

import pytest

from rerank import Reranker
from rerank.backends.fake import Fake
from rerank.calibration import fit_calibration
from rerank.judges.attention.evidence import EvidenceSpan
from rerank.tasks import Reply, Request
from tests.calibration.synthetic import make_collection
from tests.serving.conftest import Client

pytest.importorskip("fastapi")

DOCS = ["one", "two", "three"]


def post(client: Any, path: str, **body: Any) -> Any:
    response = client.post(path, json=body)
    assert response.status_code == 200, response.text
    return response.json()


def indices(rows: Sequence[Any]) -> list[int]:
    return [row["index"] for row in rows]


def scores_decrease(rows: Sequence[Any], key: str = "relevance_score") -> bool:
    found = [row[key] for row in rows]
    return all(before > after for before, after in itertools.pairwise(found)) and 0 < min(found) <= max(found) <= 1


def test_cohere_version_2(client: Client) -> None:
    answer = post(client(), "/v2/rerank", model="fake", query="q", documents=DOCS)
    assert indices(answer["results"]) == [2, 1, 0]
    assert scores_decrease(answer["results"])
    assert answer["meta"]["api_version"] == {"version": "2"}
    assert len(answer["meta"]["warnings"]) == 1  # the scores are made from ranks
    assert "document" not in answer["results"][0]


@pytest.mark.parametrize("path", ["/rerank", "/v1/rerank"])
def test_one_object_for_cohere_1_jina_vllm_and_voyage(client: Client, path: str) -> None:
    answer = post(client(), path, model="fake", query="q", documents=["one", {"text": "two"}, {"a": "x", "b": 3}])
    assert answer.keys() >= {"id", "model", "results", "data", "usage", "meta"}
    assert indices(answer["results"]) == indices(answer["data"]) == [2, 1, 0]
    assert [row["document"]["text"] for row in answer["results"]] == ["a: x\nb: 3", "two", "one"]
    assert [row["document"] for row in answer["data"]] == [None] * 3
    assert answer["usage"]["total_tokens"] >= answer["usage"]["prompt_tokens"] > 0


def test_documents_are_returned_as_asked(client: Client) -> None:
    answer = post(client(), "/rerank", query="q", documents=DOCS, return_documents=False)
    assert [row["document"] for row in (*answer["results"], *answer["data"])] == [None] * 6
    answer = post(client(), "/rerank", query="q", documents=DOCS, return_documents=True)
    assert [row["document"] for row in answer["data"]] == ["three", "two", "one"]


@pytest.mark.parametrize(("name", "count"), [("top_n", 2), ("top_k", 1)])
def test_the_number_of_results(client: Client, name: str, count: int) -> None:
    assert len(post(client(), "/rerank", query="q", documents=DOCS, **{name: count})["results"]) == count
    assert len(post(client(), "/rerank", query="q", documents=DOCS, **{name: 0})["results"]) == 3


def test_zero_results_are_all_in_version_2(client: Client) -> None:
    assert indices(post(client(), "/v2/rerank", query="q", documents=DOCS, top_n=0)["results"]) == [2, 1, 0]


def test_fields_of_an_object(client: Client) -> None:
    documents = [{"title": "t", "body": "b", "other": "o"}]
    answer = post(client(), "/v1/rerank", query="q", documents=documents, rank_fields=["body", "title"])
    assert answer["results"][0]["document"]["text"] == "body: b\ntitle: t"


def test_tei(client: Client) -> None:
    opened = client()
    response = opened.post("/rerank", json={"query": "q", "texts": DOCS, "return_text": True})
    assert indices(response.json()) == [2, 1, 0]
    assert [row["text"] for row in response.json()] == ["three", "two", "one"]
    assert scores_decrease(response.json(), "score")
    assert "1 / rank" in response.headers["X-Rerank-Warnings"]
    for body in ({"texts": DOCS, "scores": [1.0]}, {"texts": [1]}, {"texts": DOCS, "query": 5}):
        error = opened.post("/rerank", json={"query": "q", **body})
        assert error.status_code == 422
        assert isinstance(error.json()["error"], str)
        assert error.json()["error_type"] == "Validation"


@pytest.mark.parametrize(
    ("path", "documents"),
    [
        ("/v2/rerank", "documents"),
        ("/rerank", "documents"),
        ("/rerank", "texts"),
        ("/sglang/v1/rerank", "documents"),
        ("/v1/reranking", "input"),
        ("/v1/models/rerank", "documents"),
    ],
)
@pytest.mark.parametrize("field", ["instruction", "instruct"])
def test_an_instruction_without_a_place_in_the_prompt_is_a_warning(
    client: Client, path: str, documents: str, field: str
) -> None:
    response = client().post(path, json={"query": "q", documents: DOCS, field: "Prefer long texts"})
    assert "no place for an instruction" in response.headers.get("X-Rerank-Warnings", response.text)


def test_sglang(client: Client) -> None:
    rows = post(client(), "/sglang/v1/rerank", query="q", documents=DOCS)
    assert indices(rows) == [2, 1, 0]
    assert rows[0].keys() == {"score", "document", "index", "meta_info"}


def test_mixedbread(client: Client) -> None:
    body = {"query": "q", "input": [*DOCS, {"title": "four"}], "rank_fields": None, "rewrite_query": False}
    answer = post(client(), "/v1/reranking", top_k=2, return_input=True, **body)
    assert indices(answer["data"]) == [3, 2]
    assert [row["input"] for row in answer["data"]] == ["title: four", "three"]
    assert scores_decrease(answer["data"], "score")
    assert (answer["top_k"], answer["return_input"]) == (2, True)
    assert [row["input"] for row in post(client(), "/v1/reranking", **body)["data"]] == [None] * 4


def test_zeroentropy(client: Client) -> None:
    response = client().post(
        "/v1/models/rerank", json={"query": "ü", "documents": DOCS, "top_n": None, "latency": "fast"}
    )
    answer = response.json()
    assert indices(answer["results"]) == [2, 1, 0]
    assert scores_decrease(answer["results"])
    assert answer["total_bytes"] == 2 + 3 + 3 + 5
    assert answer["total_tokens"] > 0
    assert "1 / rank" in response.headers["X-Rerank-Warnings"]


@pytest.mark.parametrize(
    "body",
    [
        {"text_1": "q", "text_2": DOCS},
        {"queries": ["q"], "documents": DOCS},
        {"data_1": ["q", "q", "q"], "data_2": DOCS},
        {"queries": "q", "items": DOCS},
    ],
)
def test_scores_of_pairs(client: Client, body: dict[str, Any]) -> None:
    answer = post(client(), "/score", model="fake", **body)
    assert indices(answer["data"]) == [0, 1, 2]
    assert [row["score"] for row in answer["data"]] == [1 / 3, 1 / 2, 1]


def test_scores_of_several_queries_are_no_order(client: Client) -> None:
    opened = client()
    several = opened.post("/score", json={"text_1": ["q1", "q2"], "text_2": ["a", "b"]})
    assert [row["score"] for row in several.json()["data"]] == [1, 1]
    assert "different queries cannot be compared" in several.headers["X-Rerank-Warnings"]
    assert "shows the order" not in several.headers["X-Rerank-Warnings"]
    one = opened.post("/score", json={"text_1": "q1", "text_2": ["a", "b"]})
    assert "shows the order" in one.headers["X-Rerank-Warnings"]


def test_scores_of_a_pointwise_method_do_not_depend_on_other_pairs(client: Client) -> None:
    opened = client(Reranker.from_backend(Fake("reversed"), method="pointwise"))
    pairs = {"text_1": ["q1", "q2"], "text_2": ["a", "b"]}
    several = opened.post("/score", json=pairs)
    assert "log-odds" in several.headers["X-Rerank-Warnings"]
    assert several.json()["usage"]["prompt_tokens"] > 0
    alone = [
        post(opened, "/score", text_1=query, text_2=text)["data"][0]["score"]
        for query, text in zip(*pairs.values(), strict=True)
    ]
    assert [row["score"] for row in several.json()["data"]] == alone
    assert 1.0 not in alone


def test_the_queries_of_a_request_share_its_deadline(client: Client) -> None:
    opened = client(Reranker.from_pretrained("fake-server:reversed,delay=5"), deadline=0.3)
    started = time.monotonic()
    queries = [f"q{n}" for n in range(10)]
    opened.post("/score", json={"text_1": [*queries, *queries], "text_2": list("abcdefghijklmnopqrst")})
    assert time.monotonic() - started < 2


def test_calibrated_probabilities_of_clients_without_first_stage_scores(client: Client) -> None:
    """They are strictly decreasing, although many documents have equal probabilities."""
    result = fit_calibration([make_collection()], ranker={}, first_stage="bm25")
    reranker = Reranker.from_pretrained("fake:reversed", method="full:score")
    opened = client(dataclasses.replace(reranker, calibration=result.calibration))
    documents = [f"text {number}" for number in range(30)]
    answer = post(opened, "/v2/rerank", query="q", documents=documents)
    assert scores_decrease(answer["results"])
    hits = dataclasses.replace(reranker, calibration=result.calibration).rank("q", documents)
    assert indices(answer["results"]) == [hit.corpus_id for hit in hits]
    assert [row["relevance_score"] for row in answer["results"]] == pytest.approx([hit.relevance for hit in hits])
    assert not any("1 / rank" in warning for warning in answer["meta"].get("warnings", []))


class Failing(Fake):
    def generate(self, requests: Sequence[Request]) -> list[Reply]:
        return [Reply(finish="error", error="the server is gone") for _ in requests]


def test_an_answer_without_any_reply_is_an_error(client: Client) -> None:
    response = client(Reranker.from_backend(Failing("reversed"))).post(
        "/v2/rerank", json={"query": "q", "documents": DOCS}
    )
    assert response.status_code == 503
    assert "the server is gone" in response.json()["message"]


def test_a_deadline_is_marked(client: Client) -> None:
    reranker = Reranker.from_pretrained("fake-server:reversed,delay=5")
    answer = post(client(reranker), "/v2/rerank", query="q", documents=DOCS, deadline_ms=100)
    assert indices(answer["results"]) == [0, 1, 2]
    assert any("deadline" in warning for warning in answer["meta"]["warnings"])


def test_another_model_is_marked(client: Client) -> None:
    answer = post(client(), "/v2/rerank", model="rerank-v9", query="q", documents=DOCS)
    assert any("'rerank-v9'" in warning for warning in answer["meta"]["warnings"])


def test_an_empty_query_is_marked(client: Client) -> None:
    answer = post(client(), "/v2/rerank", query=" ", documents=DOCS)
    assert indices(answer["results"]) == [0, 1, 2]
    assert any("empty" in warning for warning in answer["meta"]["warnings"])


def test_an_empty_list(client: Client) -> None:
    assert post(client(), "/v2/rerank", query="q", documents=[])["results"] == []
    assert client().post("/rerank", json={"query": "q", "texts": []}).json() == []


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/v2/rerank", b'{"query": "q", "documents": [{}]}', 422),
        ("/v2/rerank", b'{"query": "q", "documents": ["a"], "scores": [NaN]}', 422),
        ("/v2/rerank", b'{"query": "q", "documents": ["a"], "scores": [1, 2]}', 422),
        ("/v2/rerank", b'{"query": "q", "documents": ["a"], "deadline_ms": 0}', 422),
        ("/score", b'{"text_1": ["a", "b"], "text_2": ["c"]}', 422),
        ("/nothing", b"{}", 404),
    ],
)
def test_wrong_requests(client: Client, path: str, body: bytes, status: int) -> None:
    response = client().post(path, content=body, headers={"Content-Type": "application/json"})
    assert response.status_code == status, response.text
    assert response.json().get("message") or response.json()["error"]


def test_limits(client: Client) -> None:
    opened = client(max_documents=2, max_body_bytes=2000, max_request_tokens=50)
    for body in (
        {"query": "q", "documents": DOCS},
        {"query": "q", "documents": ["x" * 3000]},
        {"query": "q", "documents": ["word " * 100]},
    ):
        response = opened.post("/v2/rerank", json=body)
        assert response.status_code == 413, response.text
        assert "expected at most" in response.json()["message"]
    assert opened.post("/v2/rerank", content=(b"x" for _ in range(3000))).status_code == 413


def test_documents_are_cut_to_the_limit_of_the_request(client: Client) -> None:
    body = {"query": "q", "documents": ["word " * 100], "max_tokens_per_doc": 3, "return_documents": True}
    (row,) = post(client(), "/v2/rerank", **body)["results"]
    assert len(row["document"]["text"].split()) == 3


def test_keys(client: Client) -> None:
    opened = client(keys=("secret-one", "secret-two"))
    body = {"query": "q", "documents": DOCS}
    for headers in (
        {},
        {"Authorization": "Bearer wrong"},
        {"Authorization": "secret-one"},
        {"X-Api-Key": "secret-one"},
    ):
        response = opened.post("/v2/rerank", json=body, headers=headers)
        assert response.status_code == 401
        assert response.headers["WWW-Authenticate"] == "Bearer"
    for key in ("secret-one", "secret-two"):
        assert opened.post("/v2/rerank", json=body, headers={"Authorization": f"Bearer {key}"}).status_code == 200
    assert opened.get("/metrics").status_code == 401
    assert opened.get("/health").status_code == 200


@pytest.mark.parametrize("path", ["/health", "/ready", "/v1/models", "/metrics", "/"])
def test_head_is_answered_where_get_is(client: Client, path: str) -> None:
    response = client().head(path)
    assert (response.status_code, response.content) == (200, b"")


def test_status_pages(client: Client) -> None:
    opened = client()
    assert opened.get("/health").json() == {"status": "ok"}
    assert opened.get("/ready").json() == {"status": "ready"}
    assert opened.get("/v1/models").json()["data"][0]["id"] == "fake"
    post(opened, "/v2/rerank", query="q", documents=DOCS)
    opened.post("/v2/rerank", json={"query": "q", "documents": DOCS, "scores": [1]})
    text = opened.get("/metrics").text
    for line in (
        'rerank_requests_accepted_total{path="/v2/rerank"} 2.0',
        'rerank_requests_ended_total{path="/v2/rerank",status="200"} 1.0',
        'rerank_requests_ended_total{path="/v2/rerank",status="422"} 1.0',
        "rerank_documents_total 3.0",
    ):
        assert line in text


def test_spans_of_shown_documents_within_the_deadline(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Sequence[str]] = []

    def evidence(reranker: Reranker, query: str, documents: Sequence[str], **options: Any) -> list[tuple[EvidenceSpan]]:
        asked.append(documents)
        time.sleep(0.3)
        return [(EvidenceSpan(start=0, end=len(document), score=1.0),) for document in documents]

    monkeypatch.setattr(Reranker, "evidence", evidence)
    opened = client()
    body = {"query": "q", "documents": DOCS, "top_n": 2, "relevant_spans": {"mode": "enabled"}}
    found = post(opened, "/v2/rerank", **body)["results"]
    assert asked == [["two", "three"]]
    assert [(row["index"], row["relevant_spans"][0]["end"]) for row in found] == [(2, 5), (1, 3)]
    late = post(opened, "/v2/rerank", **body, deadline_ms=200)
    assert [row["index"] for row in late["results"]] == [2, 1]
    assert "relevant_spans" not in late["results"][0]
    assert "relevant_spans is absent: the deadline has passed" in late["meta"]["warnings"]


def test_tokens_of_the_request_for_spans_are_counted(client: Client) -> None:
    opened = client(Reranker.from_backend(Fake("reversed"), method="icr"))
    body = {"query": "q", "documents": DOCS}
    ranked = post(opened, "/v2/rerank", **body)["meta"]["tokens"]["input_tokens"]
    with_spans = post(opened, "/v2/rerank", **body, relevant_spans={"mode": "enabled"})
    assert with_spans["results"][0]["relevant_spans"] is not None
    assert with_spans["meta"]["tokens"]["input_tokens"] > ranked
