"""Which tokens of a rendered chat stand for a passage, and from which on the question is asked.

By the tokenizer's own map from tokens to characters, over the whole text: pieces that are tokenized apart may not be
the pieces of the whole. Knows no model.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

from rerank.errors import BackendError, UsageError
from rerank.lm.tokenizers import HfTokens
from rerank.prompts.base import Prompt


@dataclass(frozen=True, slots=True, kw_only=True)
class Located:
    """A prompt as tokens.

    Attributes:
        ids: Token ids of all of it, chat template and all.
        spans: The tokens of each passage.
        tail: The first token that asks; the rest do too.
    """

    ids: tuple[int, ...]
    spans: tuple[slice, ...]
    tail: int


def locate(tokens: HfTokens, prompt: Prompt, spans: Sequence[tuple[int, int]], tail: int) -> Located:
    """Find the tokens of character spans of the last user turn.

    A token belongs where its first character is.

    Args:
        tokens: The tokenizer.
        prompt: The chat.
        spans: First and past-last character of each passage in the last user turn.
        tail: First character there that asks.

    Raises:
        UsageError: The tokenizer does not tell which characters a token stands for.
        BackendError: The chat template rewrites the turn.
    """
    if not tokens.tokenizer.is_fast:
        raise UsageError(
            f"{type(tokens.tokenizer).__name__} does not say which characters its tokens stand for",
            expected="a model with a fast tokenizer (tokenizer.json)",
        )
    text = tokens.render(prompt)
    content = next(message.content for message in reversed(prompt) if message.role == "user")
    begin = _begin(tokens.chat.safe(content), text)
    ids, starts = tokens.starts(text)

    def token_at(position: int) -> int:
        # What is shown is longer than what was meant where a special token was spelled out.
        return bisect_left(starts, begin + len(tokens.chat.safe(content[:position])))

    passages = (slice(token_at(start), token_at(end)) for start, end in spans)
    return Located(ids=tuple(ids), spans=tuple(passages), tail=token_at(tail))


def _begin(content: str, text: str) -> int:
    """Where a turn stands in a rendered chat; templates may strip it."""
    begin = text.rfind(content)
    if begin < 0:
        stripped = content.strip()
        begin = text.rfind(stripped) - content.index(stripped) if stripped in text else -1
    if begin < 0:
        raise BackendError(
            "The model's chat template rewrites the user turn, so that its passages cannot be found in the text",
            remedy="Use another model, or another method",
        )
    return begin
