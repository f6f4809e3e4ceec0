"""Answers in the shapes of models that think: their thoughts count towards the limit, wherever the server puts them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from tests.backends.faulty_server import Act, error, raw

#: Tokens that the stand-ins spend on thoughts, as measured for gpt-5 on a short answer, and on the answer.
THOUGHTS, ANSWER = 1408, 12
#: Tokens of the prompt that they state.
PROMPT = 50

#: Where a server puts thoughts (the field of the message) and how it counts them: among the completion tokens
#: (``within``), beside them (``beside``), only in the total (``total``), or not at all (``unstated``).
SHAPES: Mapping[str, tuple[str, str]] = {
    "openai": ("", "within"),
    "gemini": ("", "total"),
    "xai": ("reasoning_content", "beside"),
    "deepseek": ("reasoning_content", "within"),
    "openrouter": ("reasoning", "within"),
    "vllm": ("reasoning", "unstated"),
    "tags": ("content", "unstated"),
    "azure": ("400", "within"),
}
#: OpenAI's words for what its models that think do not accept.
NO_MAX_TOKENS = (
    "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."
)
NO_TEMPERATURE = (
    "Unsupported value: 'temperature' does not support 0.0 with this model. Only the default (1) value is supported."
)
#: Azure's words if thoughts use up the limit.
NO_ROOM = (
    "Could not finish the message because max_tokens or model output limit was reached. "
    "Please try again with higher max_tokens."
)


def limit_of(body: Mapping[str, Any]) -> int:
    limit: int = body.get("max_completion_tokens") or body["max_tokens"]
    return limit


def thinking(
    shape: str, write: Callable[[dict[str, Any]], str] = lambda body: "[2] > [1]", *, thoughts: int = THOUGHTS
) -> Callable[[dict[str, Any]], Act]:
    """Think for a number of tokens, then answer with as many tokens of the answer as the limit has left."""
    field, counting = SHAPES[shape]

    def answer(body: dict[str, Any]) -> Act:
        if shape in ("openai", "azure"):
            if "max_tokens" in body:
                return error(400, NO_MAX_TOKENS, param="max_tokens", code="unsupported_parameter")
            if "temperature" in body:
                return error(400, NO_TEMPERATURE, param="temperature", code="unsupported_value")
        limit = limit_of(body)
        thought, left = min(thoughts, limit), max(0, limit - thoughts)
        words = write(body).split(" ")
        text = " ".join(words[: left * len(words) // ANSWER])
        shown = "hm [1]? "
        is_cut = left < ANSWER
        if field == "400" and not text:
            return error(400, NO_ROOM, type="invalid_request_error", param=None, code=None)
        message: dict[str, Any] = {"role": "assistant", "content": text or None, "refusal": None}
        if field == "content":
            message["content"] = f"<think>{shown}" + (f"</think>{text}" if thought == thoughts else "")
        elif field not in ("", "400"):
            message[field] = shown
        if shape == "gemini" and not text:
            message = {"role": "assistant"}
        spent = min(left, ANSWER)
        beside = counting in ("beside", "total")
        usage: dict[str, Any] = {
            "prompt_tokens": PROMPT,
            "completion_tokens": spent + (0 if beside else thought),
            "total_tokens": PROMPT + spent + thought,
        }
        if counting in ("within", "beside"):
            usage["completion_tokens_details"] = {"reasoning_tokens": thought}
        choice = {"index": 0, "message": message, "finish_reason": "length" if is_cut else "stop"}
        return raw({"object": "chat.completion", "choices": [choice], "usage": usage})

    return answer
