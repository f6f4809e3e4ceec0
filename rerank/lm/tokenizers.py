"""How a transformers tokenizer counts and cuts. Knows no model."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import Any

from rerank.lm.chat_templates import Chat
from rerank.prompts.base import Prompt

#: What tokenizers say when they know of no limit is far above this.
_NO_LIMIT = 10**9


class HfTokens:
    """A `TokenCounter` over a transformers tokenizer.

    Args:
        tokenizer: The tokenizer.
        context_size: Tokens of prompt and reply together.

    Attributes:
        tokenizer: The tokenizer.
        chat: How it renders chats.
    """

    def __init__(self, tokenizer: Any, *, context_size: int) -> None:
        """Keep the tokenizer."""
        self.tokenizer = tokenizer
        self.chat = Chat(tokenizer)
        self._context_size = context_size

    @property
    def context_size(self) -> int:
        """Tokens that prompt and reply may have together."""
        return self._context_size

    def render(self, prompt: Prompt, *, thinking: bool = False) -> str:
        """The text that stands for a prompt, chat template and all; see `Chat.render`."""
        return self.chat.render(prompt, thinking=thinking)

    def encode(self, prompts: list[Prompt], *, thinking: bool = False) -> list[list[int]]:
        """Token ids of whole prompts. A chat template writes its own special tokens; without one they are added."""
        return [self.ids(self.render(prompt, thinking=thinking)) for prompt in prompts]

    def ids(self, text: str) -> list[int]:
        """Token ids of a rendered prompt."""
        found: list[int] = self.tokenizer(text, add_special_tokens=not self.chat.has_template)["input_ids"]
        return found

    def starts(self, text: str) -> tuple[list[int], list[int]]:
        """Token ids of a rendered prompt, and the first character of each; they never fall.

        Needs a fast tokenizer. A special token that the tokenizer adds stands where the one before it ends.
        """
        found = self.tokenizer(text, add_special_tokens=not self.chat.has_template, return_offsets_mapping=True)
        starts: list[int] = []
        end = 0
        for start, past in found["offset_mapping"]:
            starts.append(max(start, starts[-1] if starts else 0) if past > start else end)
            end = max(end, past)
        return found["input_ids"], starts

    def text(self, ids: Sequence[int], *, marks: bool = False) -> str:
        """The text of token ids, special tokens left out unless ``marks``."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=not marks))

    def plain(self, text: str) -> tuple[int, ...]:
        """Token ids of a text by itself, without special tokens."""
        return tuple(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def count(self, prompt: Prompt) -> int:
        """Tokens of the whole prompt, chat template and all."""
        return len(self.encode([prompt])[0])

    def lengths(self, texts: list[str]) -> list[int]:
        """Tokens of each text by itself, in one call of the tokenizer."""
        if not texts:
            return []
        return [len(ids) for ids in self.tokenizer(texts, add_special_tokens=False)["input_ids"]]

    def cut(self, text: str, tokens: int) -> str:
        """The longest prefix of ``text`` of at most ``tokens`` tokens that ends where a token ends.

        A prefix may tokenize otherwise than the text did, so what was cut is counted again and, where that gave more
        tokens, cut shorter.
        """
        if tokens <= 0:
            return ""
        for end in self._ends(text, tokens):
            if self.lengths([text[:end]])[0] <= tokens:
                return text[:end]
        return ""

    def _ends(self, text: str, tokens: int) -> list[int]:
        """Character positions to try, longest first."""
        if not self.tokenizer.is_fast:
            longest = bisect_right(range(len(text) + 1), tokens, key=lambda end: self.lengths([text[:end]])[0]) - 1
            return list(range(longest, 0, -1))
        spans = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
        if len(spans) <= tokens:
            return [len(text)]
        # Byte-level tokens that share a character share its span: the next token's start keeps us out of it.
        return [min(spans[kept - 1][1], spans[kept][0]) for kept in range(tokens, 0, -1)]


def context_size(model: Any, tokenizer: Any) -> int | None:
    """The context that model and tokenizer state, the smaller one; None if neither says anything."""
    config = model.config.get_text_config() if hasattr(model.config, "get_text_config") else model.config
    stated = (getattr(config, "max_position_embeddings", None), getattr(tokenizer, "model_max_length", None))
    sizes = [int(size) for size in stated if size is not None and 0 < size < _NO_LIMIT]
    return min(sizes) if sizes else None
