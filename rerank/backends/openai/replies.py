"""Convert a server's answer to a reply: text or scores, thoughts, token counts and finish reason.

An invalid answer raises `RequestFailedError`, so that it never reaches a parser.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

from rerank.backends.openai.dialect import ServerRequest, permutation_pattern_for_server
from rerank.backends.openai.retries import RequestFailedError
from rerank.backends.openai.token_estimate import (
    estimate_minimum_openai_server_tokens,
    estimate_openai_server_prompt_tokens,
    estimate_openai_server_text_tokens,
)
from rerank.errors import error_repr
from rerank.tasks import ContinuationTask, Finish, PermutationTask, Reply, Request

_ENDS: Mapping[str, Finish] = {"length": "length", "max_tokens": "length", "content_filter": "refused"}
_THOUGHT = re.compile(r"\s*(?:<think>)?(.*?)</think>\s*", re.S)
_OPEN = "<think>"
_QUOTED = re.compile(r'"[^"\\\x00-\x1f]*"')
#: Lower bound for log-probabilities. Servers write minus infinity in several ways, but sums need finite numbers.
_LEAST = -1e4


def parse_server_reply(body: Mapping[str, Any], request: Request, sent: ServerRequest) -> Reply:
    """Convert an answer to a reply; the caller sets its time in seconds.

    Raises:
        RequestFailedError: The answer is invalid, or the server truncated the prompt.
    """
    choice = _choice_of_response(body)
    message = choice.get("message")
    if not isinstance(message, dict):
        raise RequestFailedError(f"The answer contains no message: {choice}")
    tokens_in, tokens_out, tokens_cached = _usage_of_response(body)
    _check_prompt_not_truncated_by_server(tokens_in + tokens_cached, request)
    finish: Finish = "refused" if message.get("refusal") else _ENDS.get(str(choice.get("finish_reason")), "stop")
    scores = (
        _scores_of_response(choice, request.task)
        if isinstance(request.task, ContinuationTask) and finish != "refused"
        else ()
    )
    text, thoughts = _split_thoughts_of_response(message)
    if isinstance(request.task, ContinuationTask):
        text, finish = "", "refused" if finish == "refused" else "stop"  # a single token was requested: not truncated
    elif sent.reply_prefix and text and not text.startswith(sent.reply_prefix):
        text = sent.reply_prefix + text  # llama.cpp repeats the prefix, vLLM does not
    elif sent.constraint == "json" and isinstance(request.task, PermutationTask):
        text = _permutation_from_json_response(text, request.task)
    return Reply(
        text=text,
        scores=scores,
        thoughts=thoughts,
        tokens_in=tokens_in
        or estimate_openai_server_prompt_tokens(request.prompt),  # an estimate, if the server gives no count
        tokens_out=tokens_out
        or estimate_openai_server_text_tokens(text) + estimate_openai_server_text_tokens(thoughts),
        tokens_cached=tokens_cached,
        finish=finish,
    )


def server_reply_satisfies_constraint(reply: Reply, task: PermutationTask) -> bool:
    """Return whether a constrained reply satisfies its constraint. This is assumed for truncated and empty replies."""
    if reply.finish != "stop" or not reply.text:
        return True
    return re.fullmatch(permutation_pattern_for_server(task), reply.text.strip()) is not None


def _choice_of_response(body: Mapping[str, Any]) -> dict[str, Any]:
    choices = body.get("choices")
    if isinstance(choices, list) and choices and isinstance(choices[0], dict):
        return choices[0]
    raise RequestFailedError(f"The answer contains no choice: {body}")


def _usage_of_response(body: Mapping[str, Any]) -> tuple[int, int, int]:
    """Return the numbers of prompt tokens, completion tokens, and cached prompt tokens; missing counts are 0."""
    usage = body.get("usage")
    usage = usage if isinstance(usage, dict) else {}
    details = usage.get("prompt_tokens_details")
    cached = details.get("cached_tokens") if isinstance(details, dict) else 0
    counts = (usage.get("prompt_tokens"), usage.get("completion_tokens"), cached)
    prompt, reply, cached = (count if isinstance(count, int) and count > 0 else 0 for count in counts)
    return prompt, reply, cached


def _check_prompt_not_truncated_by_server(processed: int, request: Request) -> None:
    """Check the token count of the prompt, since some servers silently truncate prompts that are too long.

    Args:
        processed: Prompt tokens plus cached tokens, since some servers count cached tokens separately.
        request: The request.
    """
    words = estimate_minimum_openai_server_tokens(request.prompt)
    if 0 < processed < words // 2:
        raise RequestFailedError(
            f"The server processed {processed} tokens of a prompt of {words} words, so it truncated it; increase "
            "its context size (Ollama: OLLAMA_CONTEXT_LENGTH), or set the size that it has with --context-size",
            tries=1,
        )


def _split_thoughts_of_response(message: Mapping[str, Any]) -> tuple[str, str]:
    """Return answer and thoughts; the thoughts are in a separate field or before the answer."""
    text = _text_of_response(message.get("content"))
    separate = _text_of_response(message.get("reasoning_content")) or _text_of_response(message.get("reasoning"))
    if (thought := _THOUGHT.match(text)) is not None:
        return text[thought.end() :], separate or thought[1].strip()
    if text.lstrip().startswith(_OPEN):  # unfinished thoughts
        return "", separate or text.lstrip().removeprefix(_OPEN).strip()
    return text, separate


def _text_of_response(content: Any) -> str:
    """Return a text, or the concatenated texts of a list of parts."""
    if isinstance(content, list):
        return "".join(str(part.get("text") or "") for part in content if isinstance(part, dict))
    return content if isinstance(content, str) else ""


def _permutation_from_json_response(text: str, task: PermutationTask) -> str:
    """Convert a JSON reply to the text of a permutation; if truncated, up to the last complete identifier.

    Any other text is returned unchanged.
    """
    try:
        body = json.loads(text)
    except ValueError:
        strings = [json.loads(quoted) for quoted in _QUOTED.findall(text)] if text.lstrip().startswith("{") else []
        return task.separator.join(item for item in strings if item in task.items) or text
    order = body.get("order") if isinstance(body, dict) else None
    return task.separator.join(map(str, order)) if isinstance(order, list) and order else text


def _scores_of_response(choice: Mapping[str, Any], task: ContinuationTask) -> tuple[float, ...]:
    """Return one log-probability per continuation.

    A server lists only the most likely tokens. Continuations that it does not list get the lowest listed value, an
    upper bound of their log-probability. Likely continuations can thus be distinguished, while unlikely ones tie.
    """
    listed = _top_logprobs_of_response(choice)
    scores = [_log_probability_in_response(text, listed) for text in task.continuations]
    if all(score is None for score in scores):
        top = ", ".join(map(repr, sorted(listed, key=listed.__getitem__, reverse=True)[:5]))
        raise RequestFailedError(
            f"None of {error_repr(list(task.continuations))} is among the {len(listed)} most likely first tokens "
            f"that the server lists ({top} ...); servers return log-probabilities of single tokens only. Use a method "
            "that generates text, or run the model through transformers: --model hf:NAME",
            tries=1,
        )
    floor = min(listed.values())
    return tuple(floor if score is None else score for score in scores)


def _top_logprobs_of_response(choice: Mapping[str, Any]) -> dict[str, float]:
    """Return token -> log-probability at the first position."""
    try:
        rows = choice["logprobs"]["content"][0]["top_logprobs"]
        # In ascending order, so that the most likely of several tokens with the same text is kept.
        listed = {str(row["token"]): float(row["logprob"]) for row in reversed(rows)}
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise RequestFailedError(
            "The server returns no log-probabilities (logprobs), which this method needs; use a method that generates "
            "text, or run the model through transformers: --model hf:NAME",
            tries=1,
        ) from error
    if not listed or any(math.isnan(value) or value > 1e-3 for value in listed.values()):
        raise RequestFailedError(f"Log-probabilities are missing, NaN or positive: {listed}")
    return {token: max(value, _LEAST) for token, value in listed.items()}


def _log_probability_in_response(text: str, listed: Mapping[str, float]) -> float | None:
    """Return the log-probability of the token equal to ``text``, else of all tokens equal to it after stripping spaces.

    None if there is no such token.
    """
    if text in listed:
        return listed[text]
    matching = [value for token, value in listed.items() if token.strip() == text.strip() != ""]
    return math.log(sum(map(math.exp, matching))) if matching and sum(map(math.exp, matching)) > 0 else None
