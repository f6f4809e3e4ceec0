"""Find the positions of the tokens of passages in the text of a prompt, in characters.

The position of a token is the position of its first character. If a byte-level tokenizer divides a character into
several tokens, all of them have the position of this character.
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
        located: Token ids of the prompt and token spans of its passages.
        spans: Start and end (exclusive) of each passage in the last user turn, in characters.
    """
    text = tokens.render(prompt)
    content = next(message.content for message in reversed(prompt) if message.role == "user")
    escaped = tokens.chat.escape(content)
    ids, starts = tokens.starts(text)
    if tuple(ids) != tuple(located.ids):
        raise BackendError(
            "The tokenizer returns different tokens when offsets are requested, so tokens cannot be located",
            remedy="Use another model for evidence",
        )
    offset = _find_turn_in_prompt(escaped, text)
    positions = align_token_offset_spaces(content, escaped) if escaped != content else range(len(content))
    return [
        [positions[starts[token] - offset] - start for token in range(token_span.start, token_span.stop)]
        for token_span, (start, _) in zip(located.spans, spans, strict=True)
    ]


def align_token_offset_spaces(text: str, longer: str) -> list[int]:
    """Return, for each character of ``longer``, its position in ``text``; ``longer`` is ``text`` with added spaces.

    An added space has the position of the character after it.

    >>> align_token_offset_spaces("a<s>b", "a< s>b")
    [0, 1, 2, 2, 3, 4]
    """
    positions = []
    at = 0
    for character in longer:
        positions.append(at)
        if at < len(text) and text[at] == character:
            at += 1
    return positions
