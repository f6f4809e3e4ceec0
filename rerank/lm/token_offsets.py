"""Positions of the tokens of passages in the text of a prompt, in characters.

A token starts where its first character is. The tokens of a character that a byte-level tokenizer divides all start at
that character.
"""

from __future__ import annotations

from collections.abc import Sequence

from rerank.errors import BackendError
from rerank.lm.passage_spans import PromptSpans, _find_turn_in_prompt
from rerank.lm.tokenizers import HfTokens
from rerank.prompts.base import Prompt


def locate_tokens(
    tokens: HfTokens, prompt: Prompt, located: PromptSpans, spans: Sequence[tuple[int, int]]
) -> list[list[int]]:
    """Return the position of each token of the passages, in characters from the start of its passage.

    Args:
        tokens: The tokenizer.
        prompt: The chat.
        located: Its token ids and the token spans of its passages.
        spans: Start and end (exclusive) of each passage in the last user turn, in characters.

    Raises:
        BackendError: The tokenizer gives other tokens with offsets than without.
    """
    text = tokens.render(prompt)
    content = next(message.content for message in reversed(prompt) if message.role == "user")
    escaped = tokens.chat.escape(content)
    ids, starts = tokens.starts(text)
    if tuple(ids) != tuple(located.ids):
        raise BackendError(
            "The tokenizer gives other tokens with offsets than without, so that tokens cannot be located",
            remedy="Use another model for evidence",
        )
    offset = _find_turn_in_prompt(escaped, text)
    positions = align_inserted_spaces(content, escaped) if escaped != content else range(len(content))
    return [
        [positions[starts[token] - offset] - start for token in range(token_span.start, token_span.stop)]
        for token_span, (start, _) in zip(located.spans, spans, strict=True)
    ]


def align_inserted_spaces(text: str, longer: str) -> list[int]:
    """Return, for each character of ``longer``, its position in the text; ``longer`` has additional spaces.

    An inserted space has the position of the character after it.

    >>> align_inserted_spaces("a<s>b", "a< s>b")
    [0, 1, 2, 2, 3, 4]
    """
    positions = []
    at = 0
    for character in longer:
        positions.append(at)
        if at < len(text) and text[at] == character:
            at += 1
    return positions
