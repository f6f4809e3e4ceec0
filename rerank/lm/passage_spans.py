"""Find the tokens of the passages in a rendered chat, their positions, and the first token of the final instruction.

The position of a token is that of its first character in the whole text, since passages that are tokenized one by one
may have different tokens. If a byte-level tokenizer divides a character into several tokens, they share its position.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rerank.errors import BackendError, UsageError
from rerank.lm.tokenizers import HfTokens
from rerank.prompts.base import Prompt


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptSpans:
    """A tokenized prompt with the token spans of its passages."""

    ids: tuple[int, ...]  # token ids of the rendered prompt
    spans: tuple[slice, ...]  # token span of each passage, as a slice of ``ids``
    tail: int  # index of the first token of the final instruction, which extends to the end of the prompt


def locate_passage_tokens(tokens: HfTokens, prompt: Prompt, spans: Sequence[tuple[int, int]], tail: int) -> PromptSpans:
    """Convert character spans in the last user turn to token spans in the rendered prompt.

    A token belongs to the span that contains its first character. ``tail`` is the index of the first character of
    the final instruction in that turn.
    """
    if not tokens.tokenizer.is_fast:
        raise UsageError(
            f"{type(tokens.tokenizer).__name__} provides no offset mapping from tokens to characters",
            expected="a model with a fast tokenizer (tokenizer.json)",
        )
    text = tokens.render(prompt)
    content = next(message.content for message in reversed(prompt) if message.role == "user")
    offset = _find_turn(tokens.chat.escape(content), text)
    positions = [position for span in spans for position in span] + [tail]
    if tokens.chat.escape(content) != content:
        # Escaping special tokens lengthens the text, so the character positions are those in the escaped text.
        positions = [len(tokens.chat.escape(content[:position])) for position in positions]
    ids, counts = tokens.tokens_before(text, [offset + position for position in positions])
    passages = (slice(start, end) for start, end in zip(counts[:-1:2], counts[1::2], strict=True))
    return PromptSpans(ids=tuple(ids), spans=tuple(passages), tail=counts[-1])


def _find_turn(content: str, text: str) -> int:
    """Return the character offset of a turn in a rendered chat, even if the template has stripped the turn."""
    offset = text.rfind(content)
    if offset < 0:
        stripped = content.strip()
        offset = text.rfind(stripped) - content.index(stripped) if stripped in text else -1
    if offset < 0:
        raise BackendError(
            "The model's chat template rewrites the user turn, so the passages cannot be located in the prompt",
            remedy="Use another model, or another method",
        )
    return offset


def locate_tokens(
    tokens: HfTokens, prompt: Prompt, located: PromptSpans, spans: Sequence[tuple[int, int]]
) -> list[list[int]]:
    """Return the position of each token of the passages, in characters from the start of its passage."""
    text = tokens.render(prompt)
    content = next(message.content for message in reversed(prompt) if message.role == "user")
    escaped = tokens.chat.escape(content)
    ids, starts = tokens.starts(text)
    if tuple(ids) != tuple(located.ids):
        raise BackendError(
            "The tokenizer returns different tokens when offsets are requested, so tokens cannot be located",
            remedy="Use another model for evidence",
        )
    offset = _find_turn(escaped, text)
    positions = align_spaces(content, escaped) if escaped != content else range(len(content))
    return [
        [positions[starts[token] - offset] - start for token in range(token_span.start, token_span.stop)]
        for token_span, (start, _) in zip(located.spans, spans, strict=True)
    ]


def align_spaces(text: str, longer: str) -> list[int]:
    """Return, for each character of ``longer``, its position in ``text``; ``longer`` is ``text`` with added spaces.

    An added space has the position of the character after it.

    >>> align_spaces("a<s>b", "a< s>b")
    [0, 1, 2, 2, 3, 4]
    """
    positions = []
    at = 0
    for character in longer:
        positions.append(at)
        if at < len(text) and text[at] == character:
            at += 1
    return positions
