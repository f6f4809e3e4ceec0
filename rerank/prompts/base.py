"""What a prompt is, and what the budget needs to know of a tokenizer. Knows no template and no model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

Role = Literal["system", "user", "assistant"]

#: Stands in the text of a turn where a picture is shown (U+FFFC, Unicode's object replacement character).
PICTURE = "\ufffc"


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a chat.

    Attributes:
        role: Whose.
        content: What is said; where there are pictures, `PICTURE` in the place of each.
        images: Paths of its pictures, in the order in which they are shown.
    """

    role: Role
    content: str
    images: tuple[str, ...] = ()


#: A chat, oldest turn first; the model answers after the last one. A last turn of the assistant is the beginning of
#: its answer, which the model goes on with.
Prompt = tuple[Message, ...]


def opening(prompt: Prompt) -> str:
    """The beginning of the answer that the prompt gives already; most often empty."""
    return prompt[-1].content if prompt and prompt[-1].role == "assistant" else ""


class TokenCounter(Protocol):
    """How a model counts: everything the token budget asks of it."""

    @property
    def context_size(self) -> int:
        """Tokens that prompt and reply may have together."""

    def count(self, prompt: Prompt) -> int:
        """Tokens of the whole prompt, chat template and all."""

    def lengths(self, texts: list[str]) -> list[int]:
        """Tokens of each text by itself, without special tokens."""

    def cut(self, text: str, tokens: int) -> str:
        """The longest prefix of ``text`` (cut at a token, never inside a character) of at most ``tokens`` tokens."""


@runtime_checkable
class SeesPictures(Protocol):
    """The `TokenCounter` of a model that sees pictures: ``count`` counts those of a prompt too."""

    def picture_tokens(self, path: str) -> int:
        """Tokens that a picture takes; 0 if it cannot be read."""
