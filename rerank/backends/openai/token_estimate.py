"""A token counter for models whose tokenizer is not at hand: an estimate that is meant to be too high. Asks nobody.

The rule is simple and was compared with real tokenizers (docs/servers.md): four letters of a word, one digit, one
mark or one line break are a token, and so are two bytes of whatever is not ASCII. Real tokenizers need less of
ordinary text, and more only of what is rare in it. What a reply really took is in its `usage`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from rerank.prompts.base import Prompt

#: A capital begins a piece of its own, as in tokenizers that split camel case: all-capital words take many tokens.
_PIECE = re.compile(r"[A-Z]?[a-z]+|\s*\n\s*|[ \t]{2,}|\S")
#: Letters of a word that one token holds.
_LETTERS = 4
#: Tokens that a turn costs beyond its text (its role, the marks around it), and that a chat does: the answer's turn,
#: and the system turn that many templates add where there is none.
_TURN, _CHAT = 8, 48


class EstimatedTokens:
    """A `TokenCounter` without a tokenizer.

    Args:
        context_size: Says how many tokens prompt and reply may have together; asked when it is needed.
    """

    def __init__(self, context_size: Callable[[], int]) -> None:
        """Keep whom to ask."""
        self._context_size = context_size

    @property
    def context_size(self) -> int:
        """Tokens that prompt and reply may have together."""
        return self._context_size()

    def count(self, prompt: Prompt) -> int:
        """Tokens of all turns, what surrounds them, and the beginning of the answer's turn."""
        return prompt_tokens(prompt)

    def lengths(self, texts: list[str]) -> list[int]:
        """Tokens of each text, estimated."""
        return [text_tokens(text) for text in texts]

    def cut(self, text: str, tokens: int) -> str:
        """The longest prefix that ends with a piece and has at most ``tokens`` tokens."""
        end, spent = 0, 0
        for stop, cost in _pieces(text):
            spent += cost
            if spent > tokens:
                return text[:end]
            end = stop
        return text


def _pieces(text: str) -> Iterator[tuple[int, int]]:
    """Where each piece ends, and its tokens."""
    for match in _PIECE.finditer(text):
        piece = match[0]
        if len(piece) > 1 or piece.isascii():
            yield match.end(), -(-len(piece) // _LETTERS) if piece.isalpha() else 1
        else:
            yield match.end(), -(-len(piece.encode("utf-8", "surrogatepass")) // 2)


def text_tokens(text: str) -> int:
    """Tokens of a text, estimated."""
    return sum(cost for _, cost in _pieces(text))


def prompt_tokens(prompt: Prompt) -> int:
    """Tokens of all turns, what surrounds them, and the beginning of the answer's turn, estimated."""
    return _CHAT + sum(_TURN + text_tokens(message.content) for message in prompt)


def least_tokens(prompt: Prompt) -> int:
    """So many tokens a server must have read: tokenizers do not join words, so there is at least one a word."""
    return sum(len(message.content.split()) for message in prompt)
