"""Convert a chat completion to a `Reply`: text or scores, thoughts, token counts and finish reason.

A response that cannot be parsed becomes a reply without a text, so that the ranking parser never receives it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from rerank.backends.base import token_estimate
from rerank.backends.base.responses import (
    RequestFailedError,
    ServerResponse,
    count_in,
    decode_json_object,
    name_in,
    object_in,
    shorten,
)
from rerank.backends.openai.dialect import ServerRequest
from rerank.errors import error_repr
from rerank.tasks import ContinuationTask, Finish, PermutationTask, Reply, Request

_ENDS: Mapping[str, Finish] = {"length": "length", "max_tokens": "length", "content_filter": "refused"}
_OPEN, _CLOSE = "<think>", "</think>"
#: Remedy for replies that are unusable because of the server's settings, but are committed like all other replies.
_ASK_AGAIN = "use a new --out or --overwrite, since --resume keeps this reply"
_QUOTED = re.compile(r'"[^"\\\x00-\x1f]*"')
#: Lower bound for log-probabilities. Servers represent minus infinity in several ways, but sums need finite numbers.
_LEAST = -1e4


class _UnreadableReplyError(Exception):
    """Raised if a response contains no usable reply; if it has no content at all, another attempt may succeed."""

    def __init__(self, reason: str, *, has_content: bool = True) -> None:
        super().__init__(reason)
        self.has_content = has_content


def parse_reply(answer: ServerResponse, request: Request, sent: ServerRequest) -> tuple[Reply, bool]:
    """Convert a response to a reply, and return whether it has content; the caller sets its seconds and retries.

    Every complete response has been billed and therefore becomes a reply. If the response cannot be parsed, the
    text of the reply is empty and ``error`` states the reason.
    """
    body = answer.body
    if body.get("error") and not body.get("choices"):
        raise RequestFailedError(f"The server responded with an error: {answer.text}")
    usage = object_in(body.get("usage"))
    cached = count_in(object_in(usage.get("prompt_tokens_details")).get("cached_tokens"))
    tokens_in = count_in(usage.get("prompt_tokens"))
    reply = Reply(
        tokens_in=tokens_in or token_estimate.estimate_prompt(request.prompt),  # if the server states no count
        tokens_out=count_in(usage.get("completion_tokens")),
        tokens_cached=cached,
        served_model=name_in(body.get("model")),
        fingerprint=name_in(body.get("system_fingerprint")),
    )
    try:
        choice = _choice(answer)
        processed, words = tokens_in + cached, token_estimate.lower_bound(request.prompt)
        if 0 < processed < words // 2:  # with cached tokens, since some servers count them separately
            raise _UnreadableReplyError(
                f"The server processed {processed} tokens of a prompt of {words} words, so it truncated the prompt; "
                "increase its context size (Ollama: OLLAMA_CONTEXT_LENGTH), or set --context-size to its current size; "
                f"then {_ASK_AGAIN}"
            )
        return _add_content(reply, choice, request, sent), True
    except _UnreadableReplyError as error:
        return replace(reply, error=shorten(str(error))), error.has_content


def _choice(answer: ServerResponse) -> dict[str, Any]:
    """Return the only choice in a response."""
    if answer.unreadable:
        raise _UnreadableReplyError(answer.unreadable)
    choices = answer.body.get("choices")
    if isinstance(choices, list) and len(choices) > 1:
        raise _UnreadableReplyError(f"The answer contains {len(choices)} choices instead of one")
    choice = object_in(choices[0]) if isinstance(choices, list) and choices else {}
    if not object_in(choice.get("message")):
        raise _UnreadableReplyError(f"The answer contains no message: {answer.text or 'nothing'}", has_content=False)
    return choice


def _add_content(reply: Reply, choice: Mapping[str, Any], request: Request, sent: ServerRequest) -> Reply:
    message = object_in(choice.get("message"))
    reason = name_in(choice.get("finish_reason"))
    finish: Finish = "refused" if message.get("refusal") else _ENDS.get(reason, "stop")
    text, thoughts = _split_thoughts(message)
    if isinstance(request.task, ContinuationTask):
        scores = () if finish == "refused" else _scores(choice, request.task)
        # A single token was requested, so the reply is not truncated.
        return replace(reply, scores=scores, thoughts=thoughts, finish="refused" if finish == "refused" else "stop")
    if finish == "stop" and not text and not thoughts:
        raise _UnreadableReplyError("The reply has no content", has_content=False)
    if sent.reply_prefix and text and not text.startswith(sent.reply_prefix):
        text = sent.reply_prefix + text  # llama.cpp repeats the prefix, vLLM does not
    elif sent.constraint == "json" and isinstance(request.task, PermutationTask):
        text = _permutation_in_json(text, request.task)
    tokens = reply.tokens_out or sum(map(token_estimate.estimate_text, (text, thoughts)))
    return replace(reply, text=text, thoughts=thoughts, tokens_out=tokens, finish=finish)


def _split_thoughts(message: Mapping[str, Any]) -> tuple[str, str]:
    """Return the answer and the thoughts, which are in a separate field or precede the answer."""
    text = _text(message.get("content"))
    separate = _text(message.get("reasoning_content")) or _text(message.get("reasoning"))
    head, closed, answer = text.partition(_CLOSE)
    if closed or head.lstrip().startswith(_OPEN):  # if not closed, the thoughts are unfinished
        return answer.lstrip(), separate or head.lstrip().removeprefix(_OPEN).strip()
    return text, separate


def _text(content: Any) -> str:
    """Return the content of a message as text; it may be a text, or a list of parts, whose texts are concatenated."""
    if isinstance(content, list):
        return "".join(_text(object_in(part).get("text")) for part in content)
    return content if isinstance(content, str) else ""


def _permutation_in_json(text: str, task: PermutationTask) -> str:
    """Convert a JSON reply, up to the last complete identifier if truncated, to the text of a permutation."""
    order = decode_json_object(text).get("order")
    if isinstance(order, list) and order:
        return task.separator.join(str(item) for item in order if isinstance(item, str | int))
    if not text.lstrip().startswith("{"):
        return text
    strings = [quoted[1:-1] for quoted in _QUOTED.findall(text)]
    return task.separator.join(item for item in strings if item in task.items) or text


def _scores(choice: Mapping[str, Any], task: ContinuationTask) -> tuple[float, ...]:
    """Return one log-probability per continuation.

    A server lists only the most likely tokens. A continuation that is not listed gets the lowest listed value, an
    upper bound of its log-probability. Likely continuations can thus be distinguished, while unlikely continuations
    tie.
    """
    try:
        rows = choice["logprobs"]["content"][0]["top_logprobs"]
        # In ascending order, so that the most likely of several tokens with the same text is kept.
        listed = {name_in(row["token"]): float(row["logprob"]) for row in reversed(rows)}
    except (KeyError, IndexError, TypeError, ValueError, OverflowError) as error:
        raise _UnreadableReplyError(
            "The server returns no log-probabilities (logprobs), which this method needs; use a method that generates "
            f"text, or run the model through transformers: --model hf:NAME; if the server can return them, {_ASK_AGAIN}"
        ) from error
    if not listed or any(math.isnan(value) or value > 1e-3 for value in listed.values()):
        raise _UnreadableReplyError(f"Log-probabilities are missing, NaN or positive: {listed}")
    listed = {token: max(value, _LEAST) for token, value in listed.items()}
    scores = [_log_probability(text, listed) for text in task.continuations]
    if all(score is None for score in scores):
        top = ", ".join(map(repr, sorted(listed, key=listed.__getitem__, reverse=True)[:5]))
        raise _UnreadableReplyError(
            f"None of {error_repr(list(task.continuations))} is among the {len(listed)} most likely first tokens "
            f"that the server lists ({top} ...); servers return log-probabilities of single tokens only. Use a method "
            "that generates text, or run the model through transformers: --model hf:NAME"
        )
    floor = min(listed.values())
    return tuple(floor if score is None else score for score in scores)


def _log_probability(text: str, listed: Mapping[str, float]) -> float | None:
    """Return the log-probability of ``text``, or of all tokens together that differ only in whitespace."""
    if text in listed:
        return listed[text]
    matching = [value for token, value in listed.items() if token.strip() == text.strip() != ""]
    return math.log(sum(map(math.exp, matching))) if matching and sum(map(math.exp, matching)) > 0 else None
