"""Chats, and the protocol of token counters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

Role = Literal["system", "user", "assistant"]

#: Placeholder of a picture in the text of a turn (U+FFFC, object replacement character).
PICTURE = "\ufffc"


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a chat.

    Attributes:
        role: Role of the speaker.
        content: The text, with a `PICTURE` in the position of each picture.
        images: Paths of the pictures, in order of appearance.
    """

    role: Role
    content: str
    images: tuple[str, ...] = ()


#: A chat, oldest turn first. The model replies to the last turn; a last turn of the assistant is the beginning of the
#: reply, which the model continues.
Prompt = tuple[Message, ...]


def reply_prefix(prompt: Prompt) -> str:
    """Return the beginning of the reply that the prompt contains; empty if there is none."""
    return prompt[-1].content if prompt and prompt[-1].role == "assistant" else ""


class TokenCounter(Protocol):
    """The token counts that the prompt budget needs from a model."""

    @property
    def context_size(self) -> int:
        """Maximum number of tokens of prompt and reply together."""

    def count(self, prompt: Prompt) -> int:
        """Return the number of tokens of a prompt, including those of the chat template."""

    def lengths(self, texts: list[str]) -> list[int]:
        """Return the number of tokens of each text on its own, without special tokens."""

    def cut(self, text: str, tokens: int) -> str:
        """Return the longest prefix of ``text`` that ends with a token and has at most ``tokens`` tokens."""


@runtime_checkable
class SupportsPictures(Protocol):
    """A `TokenCounter` of a vision-language model, whose ``count`` includes the pictures of a prompt."""

    def picture_tokens(self, path: str) -> int:
        """Return the number of tokens of a picture; 0 if it cannot be read."""
