"""The backend ``api``: hosted rerankers (Cohere, Jina, Bedrock, ...) and rerank servers (TEI, vLLM, NIM, LiteLLM).

docs/servers.md describes the APIs, their limits and the keys. Limits are those of the providers' documentation in
November 2026: Cohere recommends at most 1,000 documents per request (Python client 7.3.1), Voyage allows 1,000
documents and, depending on the model, 100,000 to 600,000 tokens, and ZeroEntropy 5 MB. TEI and vLLM state their limits.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from pydantic import AliasChoices, Field, TypeAdapter, ValidationError

from rerank.backends.base import aws
from rerank.backends.base.addresses import Address, ServerProvider
from rerank.backends.base.responses import (
    MOST_TOKENS,
    Attempts,
    RequestFailedError,
    RequestRejectedError,
    ServerResponse,
    count_in,
    describe_content,
    name_in,
    object_in,
    objects_in,
    shorten,
)
from rerank.backends.base.server import ServerBackend, group_of
from rerank.backends.base.token_estimate import PAIR, EstimatedPairTokens
from rerank.errors import UnknownNameError, UsageError, error_repr
from rerank.io.text_files import replace_lone_surrogates
from rerank.prompts.base import Prompt
from rerank.tasks import CrossEncoderTask, Reply, Request
from rerank.tasks.dialects.question import ApiBody

if TYPE_CHECKING:  # importing httpx2 takes 0.1 s, so commands without a server avoid it
    from rerank.backends.base.client import Server
    from rerank.backends.base.connection import ServerConnection

# The APIs


@dataclass(frozen=True, slots=True, kw_only=True)
class RerankApiLimits:
    """Limits of a request to a rerank API: of documents, of tokens of all pairs together, and of tokens of one pair."""

    documents: int = 1000
    tokens: int = 1_000_000
    context_size: int = 8192


#: Function from the model's name, a query, its documents, and the maximum number of tokens of a query-document pair (if
#: the user set it; None for the API's limit) to the body of a request. The API uses its default for each field not set.
MakeBody = Callable[[str, str, list[str], int | None], dict[str, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class RerankApi:
    """The description of a rerank API: its provider, its requests and responses, and its documented limits."""

    provider: ServerProvider
    make_body: MakeBody
    #: The field of a response that contains the results; empty if the response is the list of results.
    results: str = "results"
    #: Function that converts the results to a list of objects with ``index`` and a score; other values stay unchanged.
    convert: Callable[[Any], Any] = lambda results: results
    #: First part of the path, before the endpoint, such as ``/v2``; added only to addresses without a path.
    version: str = "/v1"
    #: Path of the endpoint; ``{model}`` and ``{model_without_dots}`` stand for the model's name.
    endpoint: str = "/rerank"
    #: Whether requests are signed for AWS, and ``{region}`` in the provider's address stands for the region.
    is_signed: bool = False
    limits: RerankApiLimits = RerankApiLimits()
    #: Path, from the server's root, at which the server describes itself and its limits; empty if there is none.
    limits_path: str = ""
    #: Function from this description and the model's name to the context size and the maximum number of documents, each
    #: 0 if not stated.
    read_limits: Callable[[Mapping[str, Any], str], tuple[int, int]] = lambda body, model: (0, 0)
    #: Whether a server serves a single model, so that requests contain no model name.
    serves_one_model: bool = False
    returns_logits: bool = False  # whether scores are logits, instead of what the provider computes from them


def _cohere_body(model: str, query: str, documents: list[str], max_tokens: int | None) -> dict[str, Any]:
    cut = {} if max_tokens is None else {"max_tokens_per_doc": max_tokens}  # the default is 4096
    return {"model": model, "query": query, "documents": documents, **cut}


def _common_body(model: str, query: str, documents: list[str], max_tokens: int | None) -> dict[str, Any]:
    return {"model": model, "query": query, "documents": documents, "return_documents": False}


def _score_body(model: str, query: str, documents: list[str], max_tokens: int | None) -> dict[str, Any]:
    return {"model": model, "text_1": query, "text_2": documents}


def _bedrock_body(model: str, query: str, documents: list[str], max_tokens: int | None) -> dict[str, Any]:
    reranker = {"modelConfiguration": {"modelArn": model}, "numberOfResults": len(documents)}
    inline = [{"type": "TEXT", "textDocument": {"text": document}} for document in documents]
    return {
        "queries": [{"type": "TEXT", "textQuery": {"text": query}}],
        "sources": [{"type": "INLINE", "inlineDocumentSource": source} for source in inline],
        "rerankingConfiguration": {"type": "BEDROCK_RERANKING_MODEL", "bedrockRerankingConfiguration": reranker},
    }


def _convert_records(records: Any) -> Any:
    """Convert Vertex AI's records, whose ids are our indices; JSON made from protocol buffers omits a score of 0."""
    rows = objects_in(records)
    if not any("score" in row for row in rows):
        return records
    ids = [name_in(row.get("id")) for row in rows]
    return [
        {"index": int(name) if name.isdecimal() else name, "score": row.get("score", 0.0)}
        for name, row in zip(ids, rows, strict=True)
    ]


def _read_limits_of_vllm(body: Mapping[str, Any], model: str) -> tuple[int, int]:
    own = next((row for row in objects_in(body.get("data")) if row.get("id") == model), {})
    return count_in(own.get("max_model_len")), 0


def _provider(url: str, *keys: str, **more: Any) -> ServerProvider:
    return ServerProvider(url=url, keys=("RERANK_API_KEY", *keys), **more)


_NIM: Mapping[str, Any] = {
    "make_body": lambda model, query, texts, _: {
        "model": model,
        "query": {"text": query},
        "passages": [{"text": text} for text in texts],
        "truncate": "END",
    },
    "results": "rankings",
    "limits": RerankApiLimits(documents=512),
    "returns_logits": True,
}
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
    "jina": RerankApi(provider=_provider("https://api.jina.ai", "JINA_API_KEY"), make_body=_common_body),
    "voyage": RerankApi(
        provider=_provider("https://api.voyageai.com", "VOYAGE_API_KEY"),
        make_body=_common_body,
        results="data",
        limits=RerankApiLimits(tokens=100_000),
    ),
    "zeroentropy": RerankApi(
        provider=_provider("https://api.zeroentropy.dev", "ZEROENTROPY_API_KEY"),
        make_body=lambda model, query, texts, _: {"model": model, "query": query, "documents": texts},
        endpoint="/models/rerank",
    ),
    "tei": RerankApi(
        provider=_provider(""),
        # Logits, since the sigmoid of very relevant passages is rounded to 1.
        make_body=lambda _, query, texts, __: {"query": query, "texts": texts, "raw_scores": True, "truncate": True},
        results="",
        version="",
        limits=RerankApiLimits(documents=32, context_size=512),
        limits_path="/info",
        read_limits=lambda body, _: (
            count_in(body.get("max_input_length")),
            count_in(body.get("max_client_batch_size")),
        ),
        serves_one_model=True,
        returns_logits=True,
    ),
    "vllm": RerankApi(make_body=_common_body, **_VLLM),
    "vllm-score": RerankApi(make_body=_score_body, results="data", version="", endpoint="/score", **_VLLM),
    # botocore's model of bedrock-agent-runtime, version 2023-07-26. Cohere's model is billed per 100 documents.
    "bedrock": RerankApi(
        provider=ServerProvider(
            url="https://bedrock-agent-runtime.{region}.amazonaws.com",
            keys=("AWS_SECRET_ACCESS_KEY",),
            setting="the variable AWS_REGION, or --base-url",
            key_header="",
            if_refused="Check the credentials of AWS, the region, and that they may use bedrock:Rerank and this model",
        ),
        make_body=_bedrock_body,
        version="",
        limits=RerankApiLimits(documents=100, context_size=4096),
        is_signed=True,
    ),
    # cloud.google.com/generative-ai-app-builder/docs/reference/rest/v1/projects.locations.rankingConfigs/rank
    "vertex": RerankApi(
        provider=_provider(
            "https://discoveryengine.googleapis.com/v1/projects/{project}",
            "GOOGLE_OAUTH_ACCESS_TOKEN",
            setting="the variable GOOGLE_CLOUD_PROJECT, or --base-url with /v1/projects/PROJECT",
            headers=(("X-Goog-User-Project", "{project}"),),
            if_refused="Set GOOGLE_OAUTH_ACCESS_TOKEN to what `gcloud auth print-access-token` prints; it is valid for "
            "an hour, and the project needs the Discovery Engine API",
        ),
        make_body=lambda model, query, texts, _: {
            "model": model,
            "query": query,
            "records": [{"id": str(index), "content": text} for index, text in enumerate(texts)],
            "ignoreRecordDetailsInResponse": True,
        },
        results="records",
        convert=_convert_records,
        endpoint="/locations/global/rankingConfigs/default_ranking_config:rank",
        limits=RerankApiLimits(documents=200, context_size=1024),
    ),
    # docs.nvidia.com/nim/nemo-retriever/text-reranking; hosted addresses: langchain-nvidia-ai-endpoints 1.5.0
    "nim": RerankApi(provider=_provider("", "NVIDIA_API_KEY"), endpoint="/ranking", **_NIM),
    "nvidia": RerankApi(
        provider=_provider("https://ai.api.nvidia.com", "NVIDIA_API_KEY"),
        endpoint="/retrieval/{model_without_dots}/reranking",
        **_NIM,
    ),
    # docs.litellm.ai/docs/rerank; proxy/rerank_endpoints/endpoints.py of litellm 1.110.2
    "litellm": RerankApi(provider=_provider("", "LITELLM_PROXY_API_KEY", "LITELLM_API_KEY"), make_body=_common_body),
    # llms/azure_ai/rerank/transformation.py of litellm 1.110.2; docs.cohere.com/docs/cohere-on-microsoft-azure
    "azure": RerankApi(
        provider=_provider("", "AZURE_AI_API_KEY"),
        make_body=_cohere_body,
        version="/providers/cohere/v2",
        limits=RerankApiLimits(context_size=4096),
    ),
    # docs.pinecone.io/guides/search/rerank-results: bge-reranker-v2-m3 has 1,024 tokens and 100 documents
    "pinecone": RerankApi(
        provider=_provider(
            "https://api.pinecone.io",
            "PINECONE_API_KEY",
            key_header="Api-Key",
            headers=(("X-Pinecone-Api-Version", "2025-10"),),
        ),
        make_body=lambda model, query, texts, _: {
            **{"model": model, "query": query, "documents": [{"text": text} for text in texts]},
            **{"rank_fields": ["text"], "return_documents": False},
        },
        results="data",
        version="",
        limits=RerankApiLimits(documents=100, context_size=1024),
    ),
    # docs.together.ai/reference/rerank-1, and the Python client together 3.1.1
    "together": RerankApi(provider=_provider("https://api.together.ai", "TOGETHER_API_KEY"), make_body=_common_body),
    # deepinfra.com/Qwen/Qwen3-Reranker-0.6B/api; llms/deepinfra/rerank/transformation.py of litellm 1.110.2
    "deepinfra": RerankApi(
        provider=_provider("https://api.deepinfra.com", "DEEPINFRA_API_KEY", "DEEPINFRA_TOKEN"),
        # As many queries as documents.
        make_body=lambda _, query, texts, __: {"queries": [query] * len(texts), "documents": texts},
        results="scores",
        convert=lambda found: (
            [{"index": n, "score": score} for n, score in enumerate(found)] if isinstance(found, list) else found
        ),
        endpoint="/inference/{model}",
    ),
}


def split_documents_for_api(lengths: Sequence[int], query_length: int, limits: RerankApiLimits) -> list[range]:
    """Split a list of documents into parts within the limits; the tokens of the query count once per document.

    A document that alone exceeds the token limit becomes a part of its own.

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


# The backend


class Api(ServerBackend[RerankApiLimits]):
    """A backend for a reranker that is called through an API and scores the documents of a query.

    The model's name starts with that of the API, as in ``cohere/rerank-v4.0-pro``. The first turn of a prompt is the
    query, and each further turn is a passage. A list of passages that is longer than the API allows is sent in several
    HTTP requests. A response that does not contain exactly one finite score per passage becomes a reply with an error,
    so that the candidates keep their order.
    """

    tasks = frozenset({CrossEncoderTask})
    default_method = "cross-encoder"
    token_counter = EstimatedPairTokens

    def __init__(self, model: str, address: Address, **options: Any) -> None:
        self._api, self._api_model = _parse_model(model)
        if self._api.is_signed:
            self._api_model, self._sign = aws.open_model(self._api_model, address.url)
        self.score_unit = "sigmoid" if self._api.returns_logits else "same"
        super().__init__(model, address, **options)

    @classmethod
    def find_provider(cls, model: str) -> ServerProvider:
        api, name = _parse_model(model)
        provider, values = api.provider, dict[str, str]()
        if api.is_signed:
            values["region"] = aws.find_region(name)
        if "{project}" in provider.url:
            values["project"] = quote(os.environ.get("GOOGLE_CLOUD_PROJECT", ""), safe=":")
        if not all(values.values()):
            return replace(provider, url="", headers=())  # users must name the address
        headers = tuple((header, text.format(**values)) for header, text in provider.headers)
        return replace(provider, url=provider.url.format(**values), headers=headers)

    async def inspect(self, connection: ServerConnection) -> RerankApiLimits:
        api, (context_size, documents) = self._api, (0, 0)
        url, attempts = connection.address.root + api.limits_path, Attempts(connection)
        try:
            if api.limits_path:
                body = await connection.ask(url, read=lambda answer: answer.body, attempts=attempts)
                context_size, documents = api.read_limits(body, self._api_model)
                if api.returns_logits and body.get("raw_scores") is False:  # our own server, with a listwise method
                    self.score_unit = ""
        except RequestRejectedError:
            pass
        except RequestFailedError as error:  # a server that is down now may state its limits later
            if connection.has_other_server is not None and not await connection.is_up():
                raise attempts.unavailable(error, f"Start the server at {url}") from error
        limits = replace(
            api.limits,
            context_size=context_size or api.limits.context_size,
            documents=documents or api.limits.documents,
        )
        if api.limits_path and not (context_size or self._options.context_size):
            warnings.warn(
                f"{url} does not state the context size; {limits.context_size} tokens are assumed. Set it with "
                "--context-size",
                stacklevel=2,
            )
        return limits

    def context_size_of(self, description: RerankApiLimits) -> int:
        return description.context_size

    async def answer(self, request: Request) -> Reply:
        if not isinstance(request.task, CrossEncoderTask):
            task = type(request.task).__name__
            return Reply(finish="error", error=f"A rerank API scores pairs; it does not support {task}")
        (reply,) = await self.client.exchange(group_of(request), partial(self._score_parts, request.prompt))
        return reply

    async def _score_parts(self, prompt: Prompt, server: Server[RerankApiLimits]) -> list[Reply]:
        texts = [message.content for message in prompt]
        query, *lengths = self.tokens.lengths(texts)
        parts: list[Reply] = []
        for part in split_documents_for_api(lengths, query + PAIR, await server.describe()):
            estimated = sum(query + lengths[index] + PAIR for index in part)
            parts.append(
                await self._score(server.connection, texts[0], [texts[1 + index] for index in part], estimated)
            )
            if not parts[-1].scores:
                break  # without these scores the list cannot be ordered, and further parts would be billed
        last = parts[-1] if parts else Reply()
        reply = replace(
            last,
            scores=tuple(score for part in parts for score in part.scores) if last.scores else (),
            tokens_in=sum(part.tokens_in for part in parts),
            tokens_cached=sum(part.tokens_cached for part in parts),
            search_units=sum(part.search_units for part in parts),
            retries=sum(part.retries for part in parts),
        )
        return [reply]

    async def _score(self, connection: ServerConnection, query: str, documents: list[str], estimated: int) -> Reply:
        # Voyage, Vertex and Bedrock refuse empty texts, and with one of them the whole list.
        query, *documents = (replace_lone_surrogates(text) or " " for text in (query, *documents))
        body = self._api.make_body(self._api_model, query, documents, self._options.context_size)
        if "raw_scores" in body and not self.score_unit:
            body["raw_scores"] = False
        name = quote(self._api_model)
        endpoint = self._api.endpoint.format(model=name, model_without_dots=name.replace(".", "_"))
        attempts = Attempts(connection)
        try:
            reply = await connection.ask(
                connection.address.endpoint_url(endpoint, self._api.version),
                body,
                read=lambda answer: parse_rerank_response(
                    answer, self._api, documents=len(documents), estimated_tokens=estimated
                ),
                attempts=attempts,
            )
        except (RequestFailedError, RequestRejectedError) as error:
            return attempts.failed_reply(error, self._api_model)
        return replace(reply, retries=attempts.retries)


def _parse_model(text: str) -> tuple[RerankApi, str]:
    """Split a name such as ``cohere/rerank-v4.0-pro`` into the API and the name of the model in this API."""
    name, _, model = text.partition("/")
    if name not in RERANK_APIS:
        raise UnknownNameError("rerank API", name, [f"{known}/MODEL" for known in RERANK_APIS])
    api = RERANK_APIS[name]
    if not model and not api.serves_one_model:
        raise UsageError(f"--model api:{text} does not contain the name of a model", expected=f"api:{name}/MODEL")
    return api, model


# Responses


class ScoredIndex(ApiBody):
    """The score of one document in a response: the two fields that all rerank APIs return. Others are ignored."""

    index: int
    score: float = Field(validation_alias=AliasChoices("relevance_score", "score", "relevanceScore", "logit"))


_RESULTS = TypeAdapter(list[ScoredIndex])


def parse_rerank_response(answer: ServerResponse, api: RerankApi, *, documents: int, estimated_tokens: int) -> Reply:
    """Convert a response of an API to one score per document.

    Every complete response has been billed and therefore becomes a reply. If it does not contain exactly one finite
    score per document, the reply has no scores, and ``error`` states the reason.
    """
    # Token counts are in ``usage`` (Jina, Voyage, vLLM, NIM, Together), in ``meta`` (Cohere, LiteLLM), or at the top
    # level (ZeroEntropy, DeepInfra).
    usage, meta = object_in(answer.body.get("usage")), object_in(answer.body.get("meta"))
    tokens, billed = object_in(meta.get("tokens")), object_in(meta.get("billed_units"))
    counts = (
        *(usage.get("prompt_tokens"), usage.get("total_tokens")),
        *(tokens.get("input_tokens"), billed.get("input_tokens"), billed.get("total_tokens")),
        *(answer.body.get("total_tokens"), answer.body.get("input_tokens")),
    )
    units: Any = billed.get("search_units") or usage.get("rerank_units")
    has_units = isinstance(units, int | float) and not isinstance(units, bool) and 0 < units <= MOST_TOKENS
    scores, problem = _scores(answer, api, documents)
    return Reply(
        scores=tuple(scores),
        error=shorten(problem),
        tokens_in=next(filter(None, map(_whole_number, counts)), estimated_tokens),
        tokens_cached=_whole_number(meta.get("cached_tokens")),
        search_units=float(units) if has_units else 0.0,
        served_model=name_in(answer.body.get("model")),
    )


def _scores(answer: ServerResponse, api: RerankApi, documents: int) -> tuple[list[float], str]:
    """Return one score per document, in order, and an empty error message; or no scores and an error message."""
    if answer.unreadable:
        return [], answer.unreadable
    if answer.value is None:
        return [], f"The answer is not JSON: {describe_content(answer.text)}; check --base-url and the network"
    field = api.results
    rows = answer.body.get(field) if field else answer.value
    try:
        results = _RESULTS.validate_python(api.convert(rows), strict=True)
    except ValidationError as error:
        fault = error.errors()[0]
        place = ".".join(map(str, (field or "the list", *fault["loc"])))
        return [], f"The answer has no usable results: {place}: {fault['msg']}, found {error_repr(fault['input'])}"
    by_index: dict[int, float] = {}
    for result in results:
        if not 0 <= result.index < documents:
            return [], f"The answer has a result with index {result.index} for {documents} documents"
        if result.index in by_index:
            return [], f"The answer has several results with index {result.index}"
        by_index[result.index] = result.score
    if missing := [index for index in range(documents) if index not in by_index]:
        return [], f"The answer has results for {len(by_index)} of {documents} documents; index {missing[0]} is missing"
    return [by_index[index] for index in range(documents)], ""


def _whole_number(value: Any) -> int:
    """Convert a number of tokens to an integer, since Cohere states floats; 0 if it is not a valid number."""
    is_whole = isinstance(value, float) and value.is_integer()
    return count_in(int(value) if is_whole else value)
