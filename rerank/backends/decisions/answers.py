"""Parse the responses of decision APIs: per question, one log-probability per option or an error message."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from pydantic import TypeAdapter, ValidationError

from rerank.backends.base.request_retries import RequestFailedError
from rerank.backends.base.server_answers import (
    ServerResponse,
    name_in_answer,
    object_in_answer,
    shorten_server_message,
    token_count_in_answer,
)
from rerank.errors import error_repr
from rerank.tasks import DecisionTask, Reply
from rerank.tasks.dialects.decisions import (
    ChoiceAnswer,
    DecisionAnswer,
    PredicateAnswer,
    RefusalAnswer,
    ScoreAnswer,
)

#: Smallest probability. Smaller values, including 0, are replaced by it, since the logarithm of 0 is not finite.
_LEAST = 1e-300
#: Largest amount by which a probability may exceed 1, since servers round probabilities.
_ROUNDING = 1e-6
_ANSWER: TypeAdapter[DecisionAnswer] = TypeAdapter(DecisionAnswer)


class _UnusableAnswerError(Exception):
    """Raised if a question has no valid answer; the message states the reason for the user."""


def parse_decision_response(
    answer: ServerResponse, tasks: Sequence[DecisionTask], estimated: Sequence[int]
) -> list[Reply]:
    """Convert a response to one reply per question. The name of each question is its position.

    Every complete response has been billed, so it is always converted. If there is not exactly one valid answer to a
    question, the ``error`` of its reply states the reason, and the other answers are kept. The tokens of the call are
    divided evenly.

    Args:
        answer: The response.
        tasks: The tasks of the questions.
        estimated: Estimated number of prompt tokens of each question, for servers that do not state it.
    """
    body = answer.body
    if body.get("error") and not body.get("answers"):
        raise RequestFailedError(f"The server responded with an error: {answer.text}")
    usage = object_in_answer(body.get("usage"))
    details = object_in_answer(usage.get("input_tokens_details"))
    counts = (usage.get("input_tokens"), usage.get("output_tokens"), details.get("cached_tokens"))
    tokens_in, tokens_out, tokens_cached = (_divide_evenly(token_count_in_answer(n), len(tasks)) for n in counts)
    replies = []
    for position, (task, row) in enumerate(zip(tasks, _find_answers(answer, len(tasks)), strict=True)):
        reply = Reply(
            tokens_in=tokens_in[position] or estimated[position],
            tokens_out=tokens_out[position],
            tokens_cached=tokens_cached[position],
            served_model=name_in_answer(body.get("model")),
        )
        try:
            scores = _scores_of_decision(task, row)
        except _UnusableAnswerError as error:
            replies.append(replace(reply, error=shorten_server_message(answer.unreadable or str(error))))
        else:
            replies.append(replace(reply, scores=scores or (), finish="refused" if scores is None else "stop"))
    return replies


def _divide_evenly(total: int, parts: int) -> list[int]:
    """Divide a total into ``parts`` integers that differ by at most 1."""
    return [total * (part + 1) // parts - total * part // parts for part in range(parts)]


def _find_answers(answer: ServerResponse, count: int) -> list[Any]:
    """Return the answer to each question, or None for a question with no answer or several answers.

    Answers are found by the names of the questions, or by their order if the response contains all of them without
    names.
    """
    rows = answer.body.get("answers")
    rows = rows if isinstance(rows, list) else []
    names = [object_in_answer(row).get("name") for row in rows]
    if len(rows) == count and all(name is None for name in names):
        return rows
    expected = [str(position) for position in range(count)]
    return [rows[names.index(name)] if names.count(name) == 1 else None for name in expected]


def _scores_of_decision(task: DecisionTask, row: Any) -> tuple[float, ...] | None:
    """Return the log-probabilities of the options; None for a refusal."""
    if row is None:
        raise _UnusableAnswerError("The response does not contain exactly one answer to this question")
    try:
        found = _ANSWER.validate_python(row)
    except ValidationError as error:
        fault = error.errors()[0]
        place = ".".join(map(str, fault["loc"]))
        raise _UnusableAnswerError(f"Invalid answer: {place}: {fault['msg']}, {error_repr(fault['input'])}") from error
    if isinstance(found, RefusalAnswer):
        return None
    if found.type != task.question:
        raise _UnusableAnswerError(f"The answer to a {task.question} question has the type {found.type}")
    shares = _probabilities_of_decision(task, found)
    if set(shares) != set(task.options):
        stated, expected = error_repr(list(shares)), error_repr(list(task.options))
        raise _UnusableAnswerError(f"The answer contains probabilities of {stated} instead of {expected}")
    if not all(0 <= share <= 1 + _ROUNDING for share in shares.values()):
        raise _UnusableAnswerError(
            f"The answer contains probabilities that are not from 0 to 1: {error_repr(list(shares.values()))}"
        )
    return tuple(math.log(max(_LEAST, min(1.0, shares[option]))) for option in task.options)


def _probabilities_of_decision(
    task: DecisionTask, answer: PredicateAnswer | ChoiceAnswer | ScoreAnswer
) -> Mapping[Any, float]:
    """Return a mapping from each option to its probability.

    The probability of an option that occurs repeatedly is NaN, which is rejected later.
    """
    if isinstance(answer, PredicateAnswer):
        return dict(zip(task.options, (answer.probability, 1 - answer.probability), strict=True))
    pairs: list[tuple[Any, float]] = (
        [(row.value, row.probability) for row in answer.probabilities]
        if isinstance(answer, ChoiceAnswer)
        else [(row.label, row.probability) for row in answer.probabilities]
    )
    options = [option for option, _ in pairs]
    return {option: share if options.count(option) == 1 else math.nan for option, share in pairs}
