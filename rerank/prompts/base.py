"""Chats, and the protocol of token counters."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, Protocol, Self, runtime_checkable

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


class RenderedPrompt(tuple[Message, ...]):
    """A prompt with the positions of the boundaries of its template.

    It is equal to a tuple of the same turns, and a copy or a part of it is an ordinary tuple.

    Args:
        turns: The turns.
        boundaries: Pairs of the index of a turn and a number of characters of its content, in order of appearance. They
            mark the ends of the instruction, of the worked examples, of the query if it is before the passages, and of
            each passage: up to there, other prompts may be equal.
    """

    boundaries: tuple[tuple[int, int], ...]

    def __new__(cls, turns: Iterable[Message] = (), boundaries: Iterable[tuple[int, int]] = ()) -> Self:
        """Create a tuple of the turns."""
        prompt = super().__new__(cls, turns)
        prompt.boundaries = tuple(boundaries)
        return prompt


def reply_prefix_of_prompt(prompt: Prompt) -> str:
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
class PictureTokenCounter(Protocol):
    """A `TokenCounter` of a vision-language model, whose ``count`` includes the pictures of a prompt."""

    def picture_tokens(self, path: str) -> int:
        """Return the number of tokens of a picture; 0 if it cannot be read."""
