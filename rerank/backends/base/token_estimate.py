"""Estimate token counts for models whose tokenizer is not available.

Estimates are meant to be too high rather than too low. Every four letters of a word count as one token. So does each
digit, each punctuation mark, each line break, and each pair of bytes of non-ASCII text. Real tokenizers need fewer
tokens for ordinary text and more only for rare text (comparison in docs/servers.md). The server states the true counts
in the ``usage`` of a reply.
"""

import re
from collections.abc import Callable, Iterator

from rerank.prompts.base import Prompt

#: Every capital letter starts a piece, as in tokenizers that split camel case. All-capital words need many tokens.
_PIECE = re.compile(r"[A-Z]?[a-z]+|\s*\n\s*|[ \t]{2,}|\S")
#: Number of letters of a word per token.
_LETTERS = 4
#: The pieces, with words divided into tokens.
_TOKEN = re.compile(rf"[A-Z][a-z]{{1,{_LETTERS - 1}}}|[a-z]{{1,{_LETTERS}}}|\s*\n\s*|[ \t]{{2,}}|\S")
#: A character of three or four bytes, which counts as two tokens.
_TWO_TOKENS = re.compile(r"[^\s\u0000-\u07ff]")
#: Additional tokens per turn (its role and special tokens) and per chat (the turn of the answer, and the system turn
#: that many templates add).
_TURN, _CHAT = 8, 48
#: Additional tokens of a pair of query and passage: special tokens at both ends and between the texts.
PAIR = 4


class EstimatedTokens:
    """A `TokenCounter` that estimates counts without a tokenizer."""

    def __init__(self, context_size: Callable[[], int]) -> None:
        self._context_size = context_size

    @property
    def context_size(self) -> int:
        return self._context_size()

    def count(self, prompt: Prompt) -> int:
        return estimate_prompt(prompt)

    def lengths(self, texts: list[str]) -> list[int]:
        return [estimate_text(text) for text in texts]

    def cut(self, text: str, tokens: int) -> str:
        """Return the longest prefix that ends between two pieces, such as words, and has at most ``tokens`` tokens."""
        end, spent = 0, 0
        for stop, cost in _pieces(text):
            spent += cost
            if spent > tokens:
                return text[:end]
            end = stop
        return text


class EstimatedPairTokens(EstimatedTokens):
    """`EstimatedTokens` for rerankers. The first turn of a prompt is the query, and each further turn is a passage."""

    def count(self, prompt: Prompt) -> int:
        query, *passages = self.lengths([message.content for message in prompt]) if prompt else [0]
        return sum(query + passage + PAIR for passage in passages or [0])


def _pieces(text: str) -> Iterator[tuple[int, int]]:
    """Yield the end position and the estimated number of tokens of each piece of a text, such as a word."""
    for match in _PIECE.finditer(text):
        piece = match[0]
        if len(piece) > 1 or piece.isascii():
            yield match.end(), -(-len(piece) // _LETTERS) if piece.isalpha() else 1
        else:
            yield match.end(), -(-len(piece.encode("utf-8", "surrogatepass")) // 2)


def estimate_text(text: str) -> int:
    """Estimate the number of tokens of a text: the sum of `_pieces`, computed in half the time."""
    return len(_TOKEN.findall(text)) + (0 if text.isascii() else len(_TWO_TOKENS.findall(text)))


def estimate_prompt(prompt: Prompt) -> int:
    """Estimate the number of tokens of a prompt, including those of the chat template."""
    return _CHAT + sum(_TURN + estimate_text(message.content) for message in prompt)


def lower_bound(prompt: Prompt) -> int:
    """Return a lower bound of the number of tokens: one per word, since no token contains parts of two words."""
    return sum(len(message.content.split()) for message in prompt)
