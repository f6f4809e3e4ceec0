"""Parse the responses of rerank APIs: one score per document, and the numbers of billed tokens or search units."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import AliasChoices, Field, TypeAdapter, ValidationError

from rerank.backends.base.server_answers import (
    MOST_TOKENS,
    ServerResponse,
    name_in_answer,
    object_in_answer,
    shorten_server_message,
    token_count_in_answer,
)
from rerank.errors import error_repr
from rerank.tasks import Reply
from rerank.tasks.dialects.question import ApiBody


class ScoredIndex(ApiBody):
    """The score of one document in a response: the two fields that all rerank APIs return. Others are ignored."""

    index: int
    score: float = Field(validation_alias=AliasChoices("relevance_score", "score"))


_RESULTS = TypeAdapter(list[ScoredIndex])


def parse_rerank_response(answer: ServerResponse, field: str, *, documents: int, estimated_tokens: int) -> Reply:
    """Convert a response to a reply with one score per document.

    Every complete response has been billed and therefore becomes a reply. If it does not contain exactly one finite
    score per document, the reply has no scores, and ``error`` states the reason.

    Args:
        answer: The response.
        field: The field that contains the results; empty if the response is the list of results.
        documents: Number of documents of the request.
        estimated_tokens: Estimated number of prompt tokens, for APIs that do not state it.
    """
    body = answer.body
    tokens_in, tokens_cached = _tokens_of_rerank_answer(body)
    scores, problem = _scores_of_rerank_answer(answer, field, documents)
    return Reply(
        scores=tuple(scores),
        error=shorten_server_message(problem),
        tokens_in=tokens_in or estimated_tokens,
        tokens_cached=tokens_cached,
        search_units=_search_units_of_rerank_answer(body),
        served_model=name_in_answer(body.get("model")),
    )


def _scores_of_rerank_answer(answer: ServerResponse, field: str, documents: int) -> tuple[list[float], str]:
    """Return one score per document, in order, and an empty error message; or no scores and an error message."""
    if answer.unreadable:
        return [], answer.unreadable
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


def _tokens_of_rerank_answer(body: Mapping[str, Any]) -> tuple[int, int]:
    """Return the numbers of prompt tokens and of cached prompt tokens; unknown counts are 0.

    The counts are in ``usage`` (Jina, Voyage, vLLM), in ``meta`` (Cohere), or at the top level (ZeroEntropy).
    """
    usage, meta = object_in_answer(body.get("usage")), object_in_answer(body.get("meta"))
    tokens, billed = object_in_answer(meta.get("tokens")), object_in_answer(meta.get("billed_units"))
    counts = (
        *(usage.get("prompt_tokens"), usage.get("total_tokens")),
        *(tokens.get("input_tokens"), billed.get("input_tokens")),
        body.get("total_tokens"),
    )
    return next(filter(None, map(_whole_number, counts)), 0), _whole_number(meta.get("cached_tokens"))


def _search_units_of_rerank_answer(body: Mapping[str, Any]) -> float:
    """Return the number of billed search units; 0 if the response does not state a positive number."""
    units: Any = object_in_answer(object_in_answer(body.get("meta")).get("billed_units")).get("search_units")
    is_number = isinstance(units, int | float) and not isinstance(units, bool)
    return float(units) if is_number and 0 < units <= MOST_TOKENS else 0.0


def _whole_number(value: Any) -> int:
    """Convert a number of tokens to an integer, since Cohere states floats; 0 if it is not a valid number."""
    is_whole = isinstance(value, float) and value.is_integer()
    return token_count_in_answer(int(value) if is_whole else value)
