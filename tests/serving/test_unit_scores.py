"""The number that the server sends: a probability, else what the judge's score alone makes, else 1/rank."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rerank import Reranker
from rerank.assemble import assemble_ranker
from rerank.backends.fake import Fake
from rerank.errors import UsageError
from rerank.integrations.cross_encoder import RerankerCrossEncoder
from rerank.tasks import ContinuationTask, CrossEncoderTask, LikelihoodTask, LogitTask, Reply, Request
from tests.judges.scripted import Scripted
from tests.raising import raises
from tests.serving.conftest import Client

pytest.importorskip("fastapi")

LOGITS = {"a": 0.5, "b": -3.0, "c": 0.5, "d": 2.25}
TEXTS = list(LOGITS)


def sigmoid(logit: float) -> float:
    return 1 / (1 + math.exp(-logit))


def say(request: Request) -> Reply:
    """Answer pairs with their logits, and prompts with log-probabilities whose difference is the logit."""
    if isinstance(request.task, CrossEncoderTask):
        return Reply(scores=tuple(LOGITS[message.content] for message in request.prompt[1:]), tokens_in=1)
    assert request.window is not None
    scores = (LOGITS[request.window.docs[0].text], 0.0)
    return Reply(scores=scores[: len(request.task.continuations)], tokens_in=1)  # type: ignore[union-attr]


def scripted(method: str = "cross-encoder", **options: Any) -> Reranker:
    tasks = CrossEncoderTask, ContinuationTask, LogitTask, LikelihoodTask
    return Reranker.from_backend(Scripted(say, *tasks), method=method, **options)


@pytest.mark.parametrize(
    ("method", "options", "expected"),
    [
        ("cross-encoder", {}, sigmoid),
        ("pointwise", {}, sigmoid),
        ("full:word-logit", {}, sigmoid),
        ("last-but-not-late", {}, lambda cosine: cosine),
        ("pointwise,first_stage=0.5", {}, sigmoid),  # no first stage's scores are given
        ("pointwise,first_stage=0.5", {"scores": [4, 3, 2, 1]}, None),
        ("cross-encoder", {"scores": [4, 3, 2, 1]}, sigmoid),
        ("qlm", {}, None),  # a log-likelihood is no logit
    ],
)
def test_what_a_method_s_number_is(
    method: str, options: dict[str, Any], expected: Callable[[float], float] | None
) -> None:
    reranker = scripted(method)
    hits = reranker.rank("q", TEXTS, **options)
    units = [hit.unit_score for hit in hits]
    assert units == sorted(set(units), reverse=True)  # ties are separated
    assert [hit.relevance for hit in hits] == [None] * 4
    if expected is None:
        assert (units, hits.unit_kind) == ([1, 1 / 2, 1 / 3, 1 / 4], "rank")
        with raises(UsageError, "threshold is 0.5", "rerank calibrate"):
            reranker.rank("q", TEXTS, threshold=0.5, **options)
        return
    assert units == pytest.approx([expected(LOGITS[hit.text]) for hit in hits], abs=2e-8)
    assert (hits.unit_kind, [hit.score for hit in hits]) == ("uncalibrated", [2.25, 0.5, 0.5, -3.0])
    limit = expected(0.5)  # that of two documents, exactly
    kept = reranker.rank("q", TEXTS, threshold=min(limit, 1), **options)
    assert [hit.text for hit in kept] == ["d", "a", "c"]
    assert any("uncalibrated" in note for note in kept.notes)
    assert len(reranker.rank("q", TEXTS, threshold=min(limit, 1), top_k=2, **options)) == 2
    assert hits.at_least(min(limit, 1)) == kept


def test_logits_of_any_size_become_numbers_that_decrease() -> None:
    extreme = Scripted(lambda _: Reply(scores=(1e9, 800.0, 40.0, -40.0, -800.0, -1e9)), CrossEncoderTask)
    units = [hit.unit_score for hit in Reranker.from_backend(extreme, method="cross-encoder").rank("q", list("abcdef"))]
    assert 0 < units[-1] <= units[0] <= 1
    assert units == sorted(set(units), reverse=True)


def test_a_failed_window_leaves_ranks_and_a_threshold_that_was_not_applied() -> None:
    def partly(request: Request) -> Reply:
        assert request.window is not None
        return Reply(finish="error", error="gone") if request.window.docs[0].text == "b" else say(request)

    reranker = Reranker.from_backend(Scripted(partly, ContinuationTask), method="pointwise")
    hits = reranker.rank("q", TEXTS, threshold=0.5)
    assert (len(hits), hits.unit_kind) == (4, "rank")
    assert any("threshold 0.5 was not applied" in note for note in hits.notes)


def test_the_authors_divisor_is_that_of_the_preset_s_method_only() -> None:
    assert assemble_ranker({"model": "zerank-2"}).logit_divisor == 5
    assert assemble_ranker({"model": "zerank-2", "method": "pointwise"}).logit_divisor == 1
    assert assemble_ranker({"model": "qwen3-reranker-0.6b"}).logit_divisor == 1
    hits = replace(scripted("full:word-logit"), logit_divisor=5.0).rank("q", TEXTS)
    assert hits[0].unit_score == pytest.approx(sigmoid(2.25 / 5), abs=1e-8)


def test_raw_scores_and_thresholds_over_http(client: Client) -> None:
    opened = client(scripted())
    answer = opened.post("/v2/rerank", json={"query": "q", "documents": TEXTS, "threshold": 0.6, "top_n": 3}).json()
    assert [(row["index"], round(row["relevance_score"], 6)) for row in answer["results"]] == [
        (3, round(sigmoid(2.25), 6)),
        (0, round(sigmoid(0.5), 6)),
        (2, round(sigmoid(0.5), 6)),
    ]
    assert sum("uncalibrated" in warning for warning in answer["meta"]["warnings"]) == 2
    raw = opened.post("/rerank", json={"query": "q", "texts": TEXTS, "raw_scores": True})
    assert raw.json() == [
        {"index": 3, "score": 2.25},
        {"index": 0, "score": 0.5},
        {"index": 2, "score": 0.5},
        {"index": 1, "score": -3.0},
    ]
    assert "X-Rerank-Warnings" not in raw.headers
    pairs = opened.post("/score", json={"text_1": "q", "text_2": TEXTS, "use_activation": False}).json()
    assert [row["score"] for row in pairs["data"]] == list(LOGITS.values())
    nim = opened.post("/v1/ranking", json={"query": {"text": "q"}, "passages": [{"text": text} for text in TEXTS]})
    assert nim.json()["rankings"][0] == {"index": 3, "logit": 2.25}
    assert opened.get("/info").json()["raw_scores"] is True


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/rerank", {"query": "q", "texts": TEXTS, "raw_scores": True}),
        ("/rerank", {"query": "q", "documents": TEXTS, "use_activation": False}),
        ("/score", {"text_1": "q", "text_2": TEXTS, "use_activation": False}),
        ("/v2/rerank", {"query": "q", "documents": TEXTS, "threshold": 0.5}),
    ],
)
def test_what_ranks_cannot_do_is_refused(client: Client, path: str, body: dict[str, Any]) -> None:
    response = client().post(path, json=body)
    assert response.status_code == 422
    assert "raw scores" in response.text or "threshold" in response.text


def test_nim_gets_ranks_if_there_are_no_logits(client: Client) -> None:
    response = client().post("/v1/ranking", json={"query": {"text": "q"}, "passages": [{"text": "a"}, {"text": "b"}]})
    assert [row["logit"] for row in response.json()["rankings"]] == [1.0, 0.5]
    assert "1 / rank" in response.headers["X-Rerank-Warnings"]


def test_a_component_gives_the_same_number_from_both_methods() -> None:
    model = RerankerCrossEncoder(reranker=scripted(), threshold=0.5)
    ranked = {row["corpus_id"]: row["score"] for row in model.rank("q", TEXTS)}
    scores = model.predict([("q", text) for text in TEXTS])
    assert set(ranked) == {0, 2, 3}  # the threshold cuts
    assert [ranked[row] for row in ranked] == pytest.approx([scores[row] for row in ranked], abs=1e-8)
    assert scores == pytest.approx([sigmoid(logit) for logit in LOGITS.values()], abs=1e-8)


# Side by side with sentence-transformers


@pytest.fixture(scope="module", params=[1, 2], ids=["one label", "two labels"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    pytest.importorskip("sentence_transformers")
    from tests.backends.pairs import save

    return save(tmp_path_factory.mktemp("unit") / "pairs", labels=request.param), request.param


def test_every_dialect_sends_the_sigmoid_of_sentence_transformers(folder: tuple[Path, int], client: Client) -> None:
    import torch
    from sentence_transformers import CrossEncoder

    path, labels = folder
    texts = ["w1 w2", "w3 w4 w5 w6", "w9 w9", "w1 w2 w3", "w20"]
    pairs: Any = [("w1 w9", text) for text in texts]
    theirs = CrossEncoder(str(path), device="cpu", activation_fn=torch.nn.Sigmoid())
    if labels == 1:
        expected = theirs.predict(pairs).tolist()
    else:  # the sigmoid of the log odds is the softmax
        expected = theirs.predict(pairs, activation_fn=torch.nn.Softmax(dim=-1))[:, 1].tolist()
    logits = [math.log(p / (1 - p)) for p in expected]
    reranker = Reranker.from_pretrained(f"cross_encoder:{path}", device="cpu", dtype="float32")
    opened, parts = client(reranker), [{"text": text} for text in texts]
    requests: list[tuple[str, dict[str, Any], str, str]] = [
        ("/v2/rerank", {"documents": texts}, "results", "relevance_score"),
        ("/rerank", {"documents": texts}, "results", "relevance_score"),
        ("/v1/rerank", {"documents": texts}, "data", "relevance_score"),
        ("/rerank", {"texts": texts}, "", "score"),
        ("/sglang/v1/rerank", {"documents": texts}, "", "score"),
        ("/v1/reranking", {"input": texts}, "data", "score"),
        ("/reranking", {"documents": texts}, "results", "relevance_score"),
        ("/v1/models/rerank", {"documents": texts}, "results", "relevance_score"),
        ("/score", {"text_1": "w1 w9", "text_2": texts}, "data", "score"),
        ("/rerank", {"texts": texts, "raw_scores": True}, "", "score"),
        ("/v1/ranking", {"query": {"text": "w1 w9"}, "passages": parts}, "rankings", "logit"),
    ]
    for url, body, rows, key in requests:
        answer = opened.post(url, json={"query": "w1 w9", **body}).json()
        found = {row["index"]: row[key] for row in (answer[rows] if rows else answer)}
        is_raw = "raw_scores" in body or key == "logit"
        wanted = logits if is_raw else expected
        limit = 1e-3 if is_raw else 1e-4
        assert [found[row] for row in range(5)] == pytest.approx(wanted, abs=limit), (url, body)


@pytest.mark.enable_socket
@pytest.mark.filterwarnings("error")  # the context size is stated
def test_our_server_tells_our_client_what_its_scores_are(
    address: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from rerank.serving.app import create_server_app
    from rerank.serving.ranking_service import create_ranking_service

    monkeypatch.delenv("RERANK_API_KEY", raising=False)
    for local, kind, unit in (
        (scripted(), "cross-encoder score", "uncalibrated"),
        (Reranker.from_backend(Fake("reversed")), "1 / rank", "rank"),
    ):
        url = address(create_server_app(create_ranking_service(local)))
        with Reranker.from_pretrained("api:tei", base_url=url) as remote:
            hits = remote.rank("q", TEXTS)
            assert (hits.score_kind, hits.unit_kind) == (kind, unit)
            ours = local.rank("q", TEXTS)
            assert [(hit.text, hit.unit_score) for hit in hits] == [(hit.text, hit.unit_score) for hit in ours]
            assert remote.backend.tokens.context_size == local.backend.tokens.context_size
