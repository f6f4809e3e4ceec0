"""Read the answers of rerank APIs: one score per document, and what the answer has cost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import AliasChoices, Field, TypeAdapter, ValidationError

from rerank.backends.base.server_answers import (
    MOST_TOKENS,
    ServerAnswer,
    name_in_answer,
    object_in_answer,
    shorten_server_message,
    token_count_in_answer,
)
from rerank.errors import error_repr
from rerank.tasks import Reply
from rerank.tasks.dialects.question import ApiBody


class ScoredIndex(ApiBody):
    """The part of a result that all rerank APIs have. Whatever else a result contains is not needed."""

    index: int
    score: float = Field(validation_alias=AliasChoices("relevance_score", "score"))


_RESULTS = TypeAdapter(list[ScoredIndex])


def read_rerank_answer(answer: ServerAnswer, field: str, *, documents: int, estimated_tokens: int) -> Reply:
    """Convert an answer to a reply with one score per document.

    Every complete answer is a reply, which has been billed, whatever is in it. If it is anything else than exactly one
    finite score per document, the reply has no scores, and ``error`` is the reason.

    Args:
        answer: The answer.
        field: The field with the results; empty if the answer is the list of results.
        documents: Number of documents of the request.
        estimated_tokens: Number of prompt tokens, for APIs that do not state it.
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


def _scores_of_rerank_answer(answer: ServerAnswer, field: str, documents: int) -> tuple[list[float], str]:
    """Return the scores in the order of the request, or no scores and what is wrong with the answer."""
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

    They are in ``usage`` (Jina, Voyage, vLLM), in ``meta`` (Cohere), or at the top (ZeroEntropy).
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
    """Return the billed search units; 0 if the answer does not state a positive number."""
    units: Any = object_in_answer(object_in_answer(body.get("meta")).get("billed_units")).get("search_units")
    is_number = isinstance(units, int | float) and not isinstance(units, bool)
    return float(units) if is_number and 0 < units <= MOST_TOKENS else 0.0


def _whole_number(value: Any) -> int:
    """Return a number of tokens, which Cohere writes as a float."""
    is_whole = isinstance(value, float) and value.is_integer()
    return token_count_in_answer(int(value) if is_whole else value)
