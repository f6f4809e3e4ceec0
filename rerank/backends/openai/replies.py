"""What a server's answer says: the text or the numbers, the thoughts, the tokens, why it ended. Connects to nothing.

An answer of another shape is a failure of the server (`Failed`), never a reply: no parser gets to see it.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

from rerank.backends.openai.dialect import Phrased, chain_pattern
from rerank.backends.openai.retries import Failed
from rerank.backends.openai.token_estimate import least_tokens, prompt_tokens, text_tokens
from rerank.errors import shorten
from rerank.tasks import ContinuationTask, Finish, PermutationTask, Reply, Request

_ENDS: Mapping[str, Finish] = {"length": "length", "max_tokens": "length", "content_filter": "refused"}
_THOUGHT = re.compile(r"\s*(?:<think>)?(.*?)</think>\s*", re.S)
_OPEN = "<think>"
_QUOTED = re.compile(r'"[^"\\\x00-\x1f]*"')
#: Servers write minus infinity in several ways; sums must not have to know it.
_LEAST = -1e4


def read(body: Mapping[str, Any], request: Request, phrased: Phrased) -> Reply:
    """Make a reply of an answer; its seconds are for the caller to fill in.

    Raises:
        Failed: It has not the shape of an answer, or is one to a part of the prompt.
    """
    choice = _choice(body)
    message = choice.get("message")
    if not isinstance(message, dict):
        raise Failed(f"An answer without a message: {choice}")
    tokens_in, tokens_out, seen = _usage(body)
    _check_whole(seen, request)
    finish: Finish = "refused" if message.get("refusal") else _ENDS.get(str(choice.get("finish_reason")), "stop")
    scores = _scores(choice, request.task) if isinstance(request.task, ContinuationTask) and finish != "refused" else ()
    text, thoughts = _split(message)
    if isinstance(request.task, ContinuationTask):
        text, finish = "", "refused" if finish == "refused" else "stop"  # one token was asked for, so it is no shortage
    elif phrased.begun and text and not text.startswith(phrased.begun):  # llama.cpp's answers begin with it, vLLM's not
        text = phrased.begun + text
    elif phrased.constraint == "json" and isinstance(request.task, PermutationTask):
        text = _chain(text, request.task)
    return Reply(
        text=text,
        scores=scores,
        thoughts=thoughts,
        tokens_in=tokens_in or prompt_tokens(request.prompt),  # an estimate is nearer to the truth than nothing
        tokens_out=tokens_out or text_tokens(text) + text_tokens(thoughts),
        finish=finish,
    )


def kept(reply: Reply, task: PermutationTask) -> bool:
    """Whether a constrained reply is what the constraint allows; one that was cut short is believed."""
    if reply.finish != "stop" or not reply.text:
        return True
    return re.fullmatch(chain_pattern(task), reply.text.strip()) is not None


def _choice(body: Mapping[str, Any]) -> dict[str, Any]:
    choices = body.get("choices")
    if isinstance(choices, list) and choices and isinstance(choices[0], dict):
        return choices[0]
    raise Failed(f"An answer without a choice: {body}")


def _usage(body: Mapping[str, Any]) -> tuple[int, int, int]:
    """Tokens of prompt, reply, and prompt with those that some count apart; 0 where it is not said."""
    usage = body.get("usage")
    usage = usage if isinstance(usage, dict) else {}
    details = usage.get("prompt_tokens_details")
    cached = details.get("cached_tokens") if isinstance(details, dict) else 0
    counts = (usage.get("prompt_tokens"), usage.get("completion_tokens"), cached)
    prompt, reply, before = (count if isinstance(count, int) and count > 0 else 0 for count in counts)
    return prompt, reply, prompt + before


def _check_whole(seen: int, request: Request) -> None:
    """Some servers cut a prompt that is too long and say nothing; the count of what they read tells."""
    words = least_tokens(request.prompt)
    if 0 < seen < words // 2:
        raise Failed(
            f"The server read {seen} tokens of a prompt of {words} words, so it cut the prompt: give it a longer "
            "context (Ollama: OLLAMA_CONTEXT_LENGTH), or say how long it is with --context-size",
            tries=1,
        )


def _split(message: Mapping[str, Any]) -> tuple[str, str]:
    """Answer and thoughts, which come in a field of their own or in front of the answer."""
    text = _text(message.get("content"))
    apart = _text(message.get("reasoning_content")) or _text(message.get("reasoning"))
    if (thought := _THOUGHT.match(text)) is not None:
        return text[thought.end() :], apart or thought[1].strip()
    if text.lstrip().startswith(_OPEN):  # it never came to an end
        return "", apart or text.lstrip().removeprefix(_OPEN).strip()
    return text, apart


def _text(content: Any) -> str:
    """A text, or the texts of a list of parts."""
    if isinstance(content, list):
        return "".join(str(part.get("text") or "") for part in content if isinstance(part, dict))
    return content if isinstance(content, str) else ""


def _chain(text: str, task: PermutationTask) -> str:
    """The chain that a JSON reply stands for, what is whole of it if it was cut; any other text as it is."""
    try:
        body = json.loads(text)
    except ValueError:
        found = [json.loads(quoted) for quoted in _QUOTED.findall(text)] if text.lstrip().startswith("{") else []
        return task.separator.join(item for item in found if item in task.items) or text
    order = body.get("order") if isinstance(body, dict) else None
    return task.separator.join(map(str, order)) if isinstance(order, list) and order else text


def _scores(choice: Mapping[str, Any], task: ContinuationTask) -> tuple[float, ...]:
    """A log-probability for every continuation; those that the server does not list get the least that it lists.

    That is the most that they can have. So likely ones are told apart, and unlikely ones are not told from each other.
    """
    listed = _listed(choice)
    found = [_likelihood(text, listed) for text in task.continuations]
    if all(score is None for score in found):
        heads = ", ".join(map(repr, sorted(listed, key=listed.__getitem__, reverse=True)[:5]))
        raise Failed(
            f"None of {shorten(list(task.continuations))} is among the {len(listed)} likeliest first tokens that the "
            f"server lists ({heads} ...): servers give likelihoods of single tokens only. Take a method that reads "
            "text, or run the model through transformers: --model hf:NAME",
            tries=1,
        )
    floor = min(listed.values())
    return tuple(floor if score is None else score for score in found)


def _listed(choice: Mapping[str, Any]) -> dict[str, float]:
    """Token -> log-probability at the first position."""
    try:
        rows = choice["logprobs"]["content"][0]["top_logprobs"]
        listed = {str(row["token"]): float(row["logprob"]) for row in reversed(rows)}  # likelier ones win, if alike
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise Failed(
            "The server gives no likelihoods (logprobs), which this method needs: take one that reads text, or run the "
            "model through transformers: --model hf:NAME",
            tries=1,
        ) from error
    if not listed or any(math.isnan(value) or value > 1e-3 for value in listed.values()):
        raise Failed(f"Likelihoods that are none: {listed}")
    return {token: max(value, _LEAST) for token, value in listed.items()}


def _likelihood(text: str, listed: Mapping[str, float]) -> float | None:
    """Of the token that is the text; else of those that are but for blanks around it; None if there are none."""
    if text in listed:
        return listed[text]
    near = [value for token, value in listed.items() if token.strip() == text.strip() != ""]
    return math.log(sum(map(math.exp, near))) if near and sum(map(math.exp, near)) > 0 else None
