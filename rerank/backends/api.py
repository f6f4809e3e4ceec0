"""The backend ``api``: hosted rerankers (Cohere, Jina, Voyage, ZeroEntropy) and rerank servers (TEI, vLLM).

docs/servers.md describes the APIs, their limits and the keys. Limits are those of the providers' documentation in
November 2026: Cohere recommends at most 1,000 documents per request (Python client 7.3.1), Voyage allows 1,000
documents and, depending on the model, 100,000 to 600,000 tokens, and ZeroEntropy 5 MB. TEI and vLLM state their limits.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from pydantic import AliasChoices, Field, TypeAdapter, ValidationError

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
from rerank.prompts.base import Prompt
from rerank.tasks import CrossEncoderTask, Reply, Request
from rerank.tasks.dialects.question import ApiBody
from rerank.tasks.dialects.rerank import CohereRequest, CommonRequest, ScoreRequest, TeiRequest

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
MakeBody = Callable[[str, str, list[str], int | None], ApiBody]


@dataclass(frozen=True, slots=True, kw_only=True)
class RerankApi:
    """The description of a rerank API: its provider, its requests and responses, and its documented limits."""

    provider: ServerProvider
    make_body: MakeBody
    #: The field of a response that contains the results; empty if the response is the list of results.
    results: str = "results"
    #: First part of the path, before the endpoint, such as ``/v2``; added only to addresses without a path.
    version: str = "/v1"
    endpoint: str = "/rerank"
    limits: RerankApiLimits = RerankApiLimits()
    #: Path, from the server's root, at which the server describes itself and its limits; empty if there is none.
    limits_path: str = ""
    #: Function from this description and the model's name to the context size and the maximum number of documents, each
    #: 0 if not stated.
    read_limits: Callable[[Mapping[str, Any], str], tuple[int, int]] = lambda body, model: (0, 0)
    #: Whether a server serves a single model, so that requests contain no model name.
    serves_one_model: bool = False
    returns_logits: bool = False  # whether scores are logits, instead of what the provider computes from them


def _cohere_body(model: str, query: str, documents: list[str], max_tokens: int | None) -> ApiBody:
    body = CohereRequest(model=model, query=query, documents=[*documents])
    if max_tokens is not None:  # by default, Cohere truncates documents to 4096 tokens
        body.max_tokens_per_doc = max_tokens
    return body


def _common_body(model: str, query: str, documents: list[str], max_tokens: int | None) -> ApiBody:
    return CommonRequest(model=model, query=query, documents=[*documents], return_documents=False)


def _zeroentropy_body(model: str, query: str, documents: list[str], max_tokens: int | None) -> ApiBody:
    return CommonRequest(model=model, query=query, documents=[*documents])


def _tei_body(model: str, query: str, documents: list[str], max_tokens: int | None) -> ApiBody:
    # Logits, since the sigmoid of very relevant passages is rounded to 1.
    return TeiRequest(query=query, texts=documents, raw_scores=True, truncate=True)


def _score_body(model: str, query: str, documents: list[str], max_tokens: int | None) -> ApiBody:
    return ScoreRequest.model_validate({"model": model, "text_1": query, "text_2": documents})


def _read_limits_of_vllm(body: Mapping[str, Any], model: str) -> tuple[int, int]:
    own = next((row for row in objects_in(body.get("data")) if row.get("id") == model), {})
    return count_in(own.get("max_model_len")), 0


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
    "jina": RerankApi(provider=_provider("https://api.jina.ai", "JINA_API_KEY"), make_body=_common_body),
    "voyage": RerankApi(
        provider=_provider("https://api.voyageai.com", "VOYAGE_API_KEY"),
        make_body=_common_body,
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
        read_limits=lambda body, _: (
            count_in(body.get("max_input_length")),
            count_in(body.get("max_client_batch_size")),
        ),
        serves_one_model=True,
        returns_logits=True,
    ),
    "vllm": RerankApi(make_body=_common_body, **_VLLM),
    "vllm-score": RerankApi(make_body=_score_body, results="data", version="", endpoint="/score", **_VLLM),
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
        self.score_unit = "sigmoid" if self._api.returns_logits else "same"
        super().__init__(model, address, **options)

    @classmethod
    def find_provider(cls, model: str) -> ServerProvider:
        return _parse_model(model)[0].provider

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
        body = self._api.make_body(self._api_model, query, documents, self._options.context_size)
        if isinstance(body, TeiRequest) and not self.score_unit:
            body.raw_scores = False
        attempts = Attempts(connection)
        try:
            reply = await connection.ask(
                connection.address.endpoint_url(self._api.endpoint, self._api.version),
                body.model_dump(exclude_unset=True, by_alias=True),
                read=lambda answer: parse_rerank_response(
                    answer, self._api.results, documents=len(documents), estimated_tokens=estimated
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
    score: float = Field(validation_alias=AliasChoices("relevance_score", "score"))


_RESULTS = TypeAdapter(list[ScoredIndex])


def parse_rerank_response(answer: ServerResponse, field: str, *, documents: int, estimated_tokens: int) -> Reply:
    """Convert a response, whose results are in ``field`` (empty: it is their list), to one score per document.

    Every complete response has been billed and therefore becomes a reply. If it does not contain exactly one finite
    score per document, the reply has no scores, and ``error`` states the reason.
    """
    # Token counts are in ``usage`` (Jina, Voyage, vLLM), in ``meta`` (Cohere), or at the top level (ZeroEntropy).
    usage, meta = object_in(answer.body.get("usage")), object_in(answer.body.get("meta"))
    tokens, billed = object_in(meta.get("tokens")), object_in(meta.get("billed_units"))
    counts = (
        *(usage.get("prompt_tokens"), usage.get("total_tokens")),
        *(tokens.get("input_tokens"), billed.get("input_tokens")),
        answer.body.get("total_tokens"),
    )
    units: Any = billed.get("search_units")
    has_units = isinstance(units, int | float) and not isinstance(units, bool) and 0 < units <= MOST_TOKENS
    scores, problem = _scores(answer, field, documents)
    return Reply(
        scores=tuple(scores),
        error=shorten(problem),
        tokens_in=next(filter(None, map(_whole_number, counts)), estimated_tokens),
        tokens_cached=_whole_number(meta.get("cached_tokens")),
        search_units=float(units) if has_units else 0.0,
        served_model=name_in(answer.body.get("model")),
    )


def _scores(answer: ServerResponse, field: str, documents: int) -> tuple[list[float], str]:
    """Return one score per document, in order, and an empty error message; or no scores and an error message."""
    if answer.unreadable:
        return [], answer.unreadable
    if answer.value is None:
        return [], f"The answer is not JSON: {describe_content(answer.text)}; check --base-url and the network"
    rows = answer.body.get(field) if field else answer.value
    try:
        results = _RESULTS.validate_python(rows, strict=True)
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
