"""The rerank APIs: their providers, the bodies of their requests, and their limits.

Limits are those of the providers' documentation in November 2026: Cohere recommends at most 1,000 documents per request
(Python client 7.3.1), Voyage allows 1,000 documents and, depending on the model, 100,000 to 600,000 tokens, and
ZeroEntropy 5 MB. TEI and vLLM state their limits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from rerank.backends.base.server_address import ServerProvider
from rerank.backends.base.server_answers import object_in_answer, token_count_in_answer
from rerank.tasks.dialects.cohere import CohereRequest
from rerank.tasks.dialects.common import CommonRequest
from rerank.tasks.dialects.question import ApiBody
from rerank.tasks.dialects.scores import ScoreRequest
from rerank.tasks.dialects.tei import TeiRequest


class MakeBody(Protocol):
    """Protocol of functions that create the JSON body of a rerank request."""

    def __call__(self, model: str, query: str, documents: list[str], max_tokens: int | None) -> ApiBody:
        """Return the body of a rerank request.

        Args:
            model: The model's name.
            query: The query.
            documents: The documents.
            max_tokens: Maximum number of tokens of a query-document pair, if the user set it; None for the API's limit.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class RerankApiLimits:
    """Limits of a request to a rerank API.

    Attributes:
        documents: Maximum number of documents.
        tokens: Maximum number of tokens of all pairs of query and document together.
        context_size: Maximum number of tokens of one pair.
    """

    documents: int = 1000
    tokens: int = 1_000_000
    context_size: int = 8192


@dataclass(frozen=True, slots=True, kw_only=True)
class RerankApi:
    """The description of a rerank API: its provider, its requests and responses, and its limits.

    Attributes:
        provider: The provider that runs the API.
        make_body: Function that creates the body of a request. The API uses its default for each field that is not set.
        results: The field of a response that contains the results; empty if the response is the list of results.
        version: First part of the path, before the endpoint, such as ``/v2``; added only to addresses without a path.
        endpoint: Path of the endpoint.
        limits: The documented limits.
        limits_path: Path, from the server's root, at which the server describes itself and its limits; empty if
            there is no such path.
        read_limits: Function that is called with this description and the model's name and returns the context size
            and the maximum number of documents, each 0 if not stated.
        serves_one_model: Whether a server serves a single model, so that requests contain no model name.
    """

    provider: ServerProvider
    make_body: MakeBody
    results: str = "results"
    version: str = "/v1"
    endpoint: str = "/rerank"
    limits: RerankApiLimits = RerankApiLimits()
    limits_path: str = ""
    read_limits: Callable[[Mapping[str, Any], str], tuple[int, int]] = lambda body, model: (0, 0)
    serves_one_model: bool = False


def _cohere_body(model: str, query: str, documents: list[str], max_tokens: int | None) -> ApiBody:
    body = CohereRequest(model=model, query=query, documents=[*documents])
    if max_tokens is not None:  # by default, Cohere truncates documents to 4096 tokens
        body.max_tokens_per_doc = max_tokens
    return body


def _jina_body(model: str, query: str, documents: list[str], max_tokens: int | None) -> ApiBody:
    return CommonRequest(model=model, query=query, documents=[*documents], return_documents=False)


def _zeroentropy_body(model: str, query: str, documents: list[str], max_tokens: int | None) -> ApiBody:
    return CommonRequest(model=model, query=query, documents=[*documents])


def _tei_body(model: str, query: str, documents: list[str], max_tokens: int | None) -> ApiBody:
    # Logits, since the sigmoid of very relevant passages is rounded to 1.
    return TeiRequest(query=query, texts=documents, raw_scores=True, truncate=True)


def _score_body(model: str, query: str, documents: list[str], max_tokens: int | None) -> ApiBody:
    return ScoreRequest.model_validate({"model": model, "text_1": query, "text_2": documents})


def _read_limits_of_tei(body: Mapping[str, Any], model: str) -> tuple[int, int]:
    return token_count_in_answer(body.get("max_input_length")), token_count_in_answer(body.get("max_client_batch_size"))


def _read_limits_of_vllm(body: Mapping[str, Any], model: str) -> tuple[int, int]:
    rows = body.get("data")
    models = [row for row in map(object_in_answer, rows) if row] if isinstance(rows, list) else []
    own = next((row for row in models if row.get("id") == model), {})
    return token_count_in_answer(own.get("max_model_len")), 0


def _provider(url: str, *keys: str) -> ServerProvider:
    return ServerProvider(url=url, keys=("RERANK_API_KEY", *keys))


_VLLM: Mapping[str, Any] = {
    "provider": _provider("", "VLLM_API_KEY"),
    "limits_path": "/v1/models",
    "read_limits": _read_limits_of_vllm,
}

#: The APIs by name.
RERANK_APIS: Mapping[str, RerankApi] = {
    "cohere": RerankApi(
        provider=_provider("https://api.cohere.com", "CO_API_KEY", "COHERE_API_KEY"),
        make_body=_cohere_body,
        version="/v2",
        limits=RerankApiLimits(context_size=4096),
    ),
    "jina": RerankApi(provider=_provider("https://api.jina.ai", "JINA_API_KEY"), make_body=_jina_body),
    "voyage": RerankApi(
        provider=_provider("https://api.voyageai.com", "VOYAGE_API_KEY"),
        make_body=_jina_body,
        results="data",
        limits=RerankApiLimits(tokens=100_000),
    ),
    "zeroentropy": RerankApi(
        provider=_provider("https://api.zeroentropy.dev", "ZEROENTROPY_API_KEY"),
        make_body=_zeroentropy_body,
        endpoint="/models/rerank",
    ),
    "tei": RerankApi(
        provider=_provider(""),
        make_body=_tei_body,
        results="",
        version="",
        limits=RerankApiLimits(documents=32, context_size=512),
        limits_path="/info",
        read_limits=_read_limits_of_tei,
        serves_one_model=True,
    ),
    "vllm": RerankApi(make_body=_jina_body, **_VLLM),
    "vllm-score": RerankApi(
        make_body=_score_body,
        results="data",
        version="",
        endpoint="/score",
        **_VLLM,
    ),
}


def split_documents_for_api(lengths: Sequence[int], query_length: int, limits: RerankApiLimits) -> list[range]:
    """Split a list of documents into parts that are within the limits of a request.

    Args:
        lengths: Number of tokens of each document.
        query_length: Number of tokens of the query, which counts once per document.
        limits: The limits. A document that alone exceeds the token limit becomes a part of its own.

    >>> split_documents_for_api([5, 5, 5], 1, RerankApiLimits(documents=2, tokens=100))
    [range(0, 2), range(2, 3)]
    """
    parts, start, tokens = [], 0, 0
    for position, length in enumerate(lengths):
        added = length + query_length
        if position > start and (position - start == limits.documents or tokens + added > limits.tokens):
            parts.append(range(start, position))
            start, tokens = position, 0
        tokens += added
    return [*parts, range(start, len(lengths))] if lengths else parts
