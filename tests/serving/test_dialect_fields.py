"""Every field of every dialect is obeyed, refused in words, or changes no result."""

from __future__ import annotations

import importlib
import re
from typing import Any

import pytest

from rerank import Reranker
from rerank.tasks import ContinuationTask, Reply, Request
from tests.docs_scripts import DOCS
from tests.judges.scripted import Scripted
from tests.serving.conftest import Client

pytest.importorskip("fastapi")

TEXTS = ["one two three", "four five", "six"]
#: The smallest request of each dialect.
SMALLEST: dict[str, tuple[str, dict[str, Any]]] = {
    "Cohere 2": ("/v2/rerank", {"query": "q w", "documents": TEXTS}),
    "Cohere 1": ("/v1/rerank", {"query": "q w", "documents": TEXTS}),
    "Jina": ("/v1/rerank", {"query": "q w", "documents": TEXTS}),
    "Voyage": ("/v1/rerank", {"query": "q w", "documents": TEXTS}),
    "vLLM, rerank": ("/rerank", {"query": "q w", "documents": TEXTS}),
    "vLLM, score": ("/score", {"text_1": "q w", "text_2": TEXTS}),
    "TEI": ("/rerank", {"query": "q w", "texts": TEXTS}),
    "SGLang": ("/sglang/v1/rerank", {"query": "q w", "documents": TEXTS}),
    "Mixedbread": ("/v1/reranking", {"query": "q w", "input": TEXTS}),
    "ZeroEntropy": ("/v1/models/rerank", {"query": "q w", "documents": TEXTS}),
    "NVIDIA NIM": ("/v1/ranking", {"query": {"text": "q w"}, "passages": [{"text": text} for text in TEXTS]}),
    "Infinity": ("/rerank", {"query": "q w", "documents": TEXTS}),
    "llama.cpp": ("/v1/reranking", {"query": "q w", "documents": TEXTS}),
}
#: A value of each field that the model of the test, which counts words, cannot overlook.
TELLING: dict[str, Any] = {
    "model": "another",
    "top_n": 1,
    "top_k": 1,
    "max_tokens_per_doc": 1,
    "max_tokens_per_query": 1,
    "truncate_prompt_tokens": 3,
    "use_activation": False,
    "raw_scores": True,
    "instruction": "Prefer long texts",
    "instruct": "Prefer long texts",
    "relevant_spans": {"mode": "enabled"},
    "rank_fields": ["text"],
    "return_documents": False,
    "return_text": True,
    "return_input": True,
    "max_chunks_per_doc": 3,
    "return_embeddings": True,
    "rewrite_query": True,
    "padding": "max_length",
    "truncation_side": "left",
    "truncation_direction": "Left",
    "mm_processor_kwargs": {"a": 1},
    "chat_template_kwargs": {"a": 1},
    "add_special_tokens": False,
    "user": "u",
    "request_id": "r",
    "priority": 3,
    "cache_salt": "salt",
    "latency": "slow",
}
#: Fields that make a text that is too long an error, and those that only name query and documents.
STRICT = {"truncation": False, "truncate": False}
NAMES = ["query", "documents", "texts", "input", "passages", "text_1", "text_2", "queries", "items", "data_1", "data_2"]


def count_words(request: Request) -> Reply:
    """Score a prompt by its number of words, so that any truncation changes the score."""
    words = sum(len(message.content.split()) for message in request.prompt)
    return Reply(scores=(words / 100, 0.0), tokens_in=1)


@pytest.fixture
def fields(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The page's module, with the list of fields per dialect."""
    monkeypatch.syspath_prepend(str(DOCS))
    return importlib.import_module("dialect_fields")


def counting() -> Reranker:
    return Reranker.from_backend(Scripted(count_words, ContinuationTask), method="pointwise")


@pytest.mark.parametrize("dialect", SMALLEST)
def test_every_field_is_obeyed_or_refused(dialect: str, client: Client, fields: Any) -> None:
    """A field that is obeyed changes the answer or its warnings, and no other field does."""
    opened = client(counting())
    url, body = SMALLEST[dialect]

    def ask(**more: Any) -> tuple[int, str, str]:
        response = opened.post(url, json={**body, **more})
        text = re.sub(r'"(id|created)":("[^"]*"|\d+)', "", response.text)
        return response.status_code, text, response.headers.get("X-Rerank-Warnings", "")

    plain = ask()
    assert plain[0] == 200
    assert fields.DIALECTS.keys() == SMALLEST.keys()
    for state, names in fields.read_fields(fields.DIALECTS[dialect]).items():
        for name in names:
            if name in NAMES:
                continue
            if name in STRICT or (dialect == "NVIDIA NIM" and name == "truncate"):
                continue  # test_texts_that_are_too_long_are_an_error_on_request
            found = ask(**{name: TELLING[name]})
            if state == "refused":
                assert found[0] == 422, name
                assert name in found[1]
                assert ask(**{name: None}) == plain
                if names[name]:  # the value that is accepted, as in the table
                    value = {"true": True, "false": False}.get(names[name], names[name])
                    assert ask(**{name: value}) == plain
            elif name == "rank_fields":
                assert found[0] == 200  # it selects fields of objects (test_fields_of_an_object)
            else:
                assert found[0] == 200, (name, found)
                assert (found != plain) == (state == "obeyed"), name


@pytest.mark.parametrize(
    ("dialect", "field", "value"),
    [("TEI", "truncate", False), ("Voyage", "truncation", False), ("NVIDIA NIM", "truncate", "NONE")],
)
def test_texts_that_are_too_long_are_an_error_on_request(dialect: str, field: str, value: Any, client: Client) -> None:
    url, body = SMALLEST[dialect]
    opened = client(
        Reranker.from_backend(
            Scripted(count_words, ContinuationTask), method="pointwise", max_passage_tokens=2, min_passage_tokens=1
        )
    )
    assert opened.post(url, json=body).status_code == 200
    response = opened.post(url, json={**body, field: value})
    assert response.status_code == 413
    assert "1 of the documents are longer" in response.text
    assert client(counting()).post(url, json={**body, field: value}).status_code == 200


@pytest.mark.parametrize(
    ("path", "body", "named"),
    [
        ("/rerank", {"query": "q", "documents": TEXTS, "top_n": 1, "top_k": 2}, "top_k has another value than top_n"),
        ("/v2/rerank", {"query": "q", "documents": TEXTS, "top_n": 1, "top_k": 2}, "top_k"),
        ("/v1/reranking", {"query": "q", "input": TEXTS, "top_k": 1, "top_n": 2}, "top_n has another value"),
        ("/rerank", {"query": "q", "documents": TEXTS, "instruction": "a", "instruct": "b"}, "instruct"),
        ("/rerank", {"query": "q", "documents": TEXTS, "texts": TEXTS}, "documents beside texts"),
        ("/v2/rerank", {"query": "q", "documents": TEXTS, "texts": TEXTS}, "texts beside documents"),
        ("/v1/reranking", {"query": "q", "documents": TEXTS, "input": TEXTS}, "input beside documents"),
        ("/score", {"text_1": "q", "text_2": TEXTS, "queries": "p"}, "queries has another value"),
        ("/score", {"text_1": "q", "text_2": TEXTS, "documents": ["a"]}, "documents has another value"),
        ("/score", {"text_1": ["q", "  ", "q"], "text_2": TEXTS}, "Query 1 is empty"),
        ("/score", {"text_1": "", "text_2": TEXTS}, "Query 0 is empty"),
        ("/rerank", {"query": "q", "documents": TEXTS, "top_n": True}, "top_n is true; expected a number"),
        ("/rerank", {"query": "q", "documents": TEXTS, "scores": [True, 2, 3]}, "scores[0] is true"),
        ("/v2/rerank", {"query": "q", "documents": TEXTS, "deadline_ms": True}, "deadline_ms is true"),
        ("/v2/rerank", {"query": "q", "documents": TEXTS, "threshold": 2}, "threshold is 2"),
        ("/rerank", {"query": "q w", "documents": TEXTS, "truncate_prompt_tokens": 2}, "the query has 2 tokens"),
        ("/v1/ranking", {"query": "q", "passages": []}, "query is 'q'"),
    ],
)
def test_what_contradicts_itself_is_refused(path: str, body: dict[str, Any], named: str, client: Client) -> None:
    response = client(counting()).post(path, json=body)
    assert response.status_code == 422, response.text
    assert named in response.json().get("message", response.text)


def test_two_names_with_one_value_are_one_field(client: Client) -> None:
    body = {"query": "q", "documents": TEXTS, "top_n": 1, "top_k": 1}
    assert len(client(counting()).post("/rerank", json=body).json()["results"]) == 1


def test_unknown_fields_are_named(client: Client) -> None:
    more = {f"unknown{number}": number for number in range(9)} | {"x" * 500: 1, "null": None}
    response = client(counting()).post("/v2/rerank", json={"query": "q", "documents": TEXTS, **more})
    (warning,) = [line for line in response.json()["meta"]["warnings"] if "does not know" in line]
    assert "'unknown0'" in warning
    assert len(warning) < 200


def test_the_query_and_the_pair_are_cut(client: Client) -> None:
    opened = client(counting())
    whole = {"query": "q w e r", "documents": ["a b c d e f"]}
    for limit, cut in (
        ({"max_tokens_per_query": 2}, {"query": "q w", "documents": ["a b c d e f"]}),
        ({"truncate_prompt_tokens": 7}, {"query": "q w e r", "documents": ["a b c"]}),
        ({"truncate_prompt_tokens": -1, "max_tokens_per_query": 0}, whole),
        (
            {"max_tokens_per_query": 1, "truncate_prompt_tokens": 4, "max_tokens_per_doc": 2},
            {"query": "q", "documents": ["a b"]},
        ),
    ):
        expected, found = (opened.post("/rerank", json=body).json() for body in (cut, {**whole, **limit}))
        assert found["results"] == expected["results"], limit
