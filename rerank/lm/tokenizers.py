"""Token counting and truncation with a transformers tokenizer."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import Any

from rerank.lm.chat_templates import ChatRenderer
from rerank.prompts.base import Prompt

#: Tokenizers without a length limit state a number far above this one.
_NO_LIMIT = 10**9


class HfTokens:
    """A `TokenCounter` that uses a transformers tokenizer.

    Args:
        tokenizer: The tokenizer.
        context_size: Maximum number of tokens of prompt and reply together.

    Attributes:
        tokenizer: The tokenizer.
        chat: Renders chats with the tokenizer's chat template.
    """

    def __init__(self, tokenizer: Any, *, context_size: int) -> None:
        """Prepare the chat template."""
        self.tokenizer = tokenizer
        self.chat = ChatRenderer(tokenizer)
        self._context_size = context_size

    @property
    def context_size(self) -> int:
        """Maximum number of tokens of prompt and reply together."""
        return self._context_size

    def render(self, prompt: Prompt, *, thinking: bool = False) -> str:
        """Return the text of a prompt after applying the chat template."""
        return self.chat.render(prompt, thinking=thinking)

    def encode(self, prompts: list[Prompt], *, thinking: bool = False) -> list[list[int]]:
        """Return the token ids of rendered prompts; special tokens are added if there is no chat template."""
        return [self.ids(self.render(prompt, thinking=thinking)) for prompt in prompts]

    def ids(self, text: str) -> list[int]:
        """Return the token ids of a rendered prompt."""
        ids: list[int] = self.tokenizer(text, add_special_tokens=not self.chat.has_template)["input_ids"]
        return ids

    def starts(self, text: str) -> tuple[list[int], list[int]]:
        """Return the token ids of a rendered prompt and the first character of each token, in non-decreasing order.

        Requires a fast tokenizer. A special token that the tokenizer adds starts where the preceding token ends.
        """
        encoding = self.tokenizer(text, add_special_tokens=not self.chat.has_template, return_offsets_mapping=True)
        starts: list[int] = []
        last_end = 0
        for start, end in encoding["offset_mapping"]:
            starts.append(max(start, starts[-1] if starts else 0) if end > start else last_end)
            last_end = max(last_end, end)
        return encoding["input_ids"], starts

    def text(self, ids: Sequence[int], *, special: bool = False) -> str:
        """Return the text of token ids, with special tokens only if ``special`` is true."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=not special))

    def plain(self, text: str) -> tuple[int, ...]:
        """Return the token ids of a text on its own, without special tokens."""
        return tuple(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def count(self, prompt: Prompt) -> int:
        """Return the number of tokens of a rendered prompt."""
        return len(self.encode([prompt])[0])

    def lengths(self, texts: list[str]) -> list[int]:
        """Return the number of tokens of each text on its own; the tokenizer is called once."""
        if not texts:
            return []
        return [len(ids) for ids in self.tokenizer(texts, add_special_tokens=False)["input_ids"]]

    def cut(self, text: str, tokens: int) -> str:
        """Return the longest prefix of a text that ends at a token boundary and has at most ``tokens`` tokens.

        A prefix may be tokenized differently from the whole text. It is therefore counted again, and shortened further
        if it has more tokens.
        """
        if tokens <= 0:
            return ""
        for end in self._ends(text, tokens):
            if self.lengths([text[:end]])[0] <= tokens:
                return text[:end]
        return ""

    def _ends(self, text: str, tokens: int) -> list[int]:
        """Return candidate end positions (in characters), the longest first."""
        if not self.tokenizer.is_fast:
            longest = bisect_right(range(len(text) + 1), tokens, key=lambda end: self.lengths([text[:end]])[0]) - 1
            return list(range(longest, 0, -1))
        spans = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
        if len(spans) <= tokens:
            return [len(text)]
        # Byte-level tokens of one character share its span: the start of the next token keeps the cut out of it.
        return [min(spans[count - 1][1], spans[count][0]) for count in range(tokens, 0, -1)]


def stated_context_size(model: Any, tokenizer: Any) -> int | None:
    """Return the smaller of the context sizes that model and tokenizer state; None if neither states one."""
    config = model.config.get_text_config() if hasattr(model.config, "get_text_config") else model.config
    stated = (getattr(config, "max_position_embeddings", None), getattr(tokenizer, "model_max_length", None))
    sizes = [int(size) for size in stated if size is not None and 0 < size < _NO_LIMIT]
    return min(sizes) if sizes else None
