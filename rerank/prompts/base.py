"""Data types for chat messages, and the protocol that token counters implement."""

from dataclasses import dataclass
from typing import Literal, Protocol

#: Role of a turn. A prompt whose first turn has the role ``text`` is not a chat: the model continues the text, and no
#: chat template is applied. Servers that accept only chats receive this text as a user turn. A turn with the role
#: ``verbatim`` already contains the model's marks of turns.
Role = Literal["system", "user", "assistant", "text", "verbatim"]

#: Placeholder for a picture in the text of a turn (U+FFFC, object replacement character).
PICTURE = "\ufffc"


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a chat."""

    role: Role  # ``system``, ``user`` or ``assistant``; ``text`` or ``verbatim`` for a text that is not a chat
    content: str  # the text, with `PICTURE` at the position of each picture
    images: tuple[str, ...] = ()  # paths of the pictures, in order of appearance


#: A chat, oldest turn first. The model replies to the last turn. If this is a turn of the assistant, it is the
#: beginning of the reply, and the model continues it.
Prompt = tuple[Message, ...]


class RenderedPrompt(tuple[Message, ...]):
    """A prompt that also stores where the sections of its template end, since prompts may share text up to there.

    It is equal to a tuple of the same turns. Copies and slices are ordinary tuples.
    """

    #: Pairs of the index of a turn and a character offset in its content, in order of appearance: the ends of the
    #: instruction, of the worked examples, of the query if it is before the passages, and of each passage.
    boundaries: tuple[tuple[int, int], ...] = ()


def reply_prefix_of_prompt(prompt: Prompt) -> str:
    """Return the beginning of the reply that the prompt contains; empty if there is none."""
    return prompt[-1].content if prompt and prompt[-1].role == "assistant" else ""


class TokenCounter(Protocol):
    """Protocol for counting the tokens of texts and prompts, with the tokenizer of a model.

    A counter may also have an attribute ``turn_marks``, which contains the special and other added tokens of its
    tokenizer that are enclosed in brackets. These tokens are escaped in queries and passages.
    """

    @property
    def context_size(self) -> int:
        """Maximum number of tokens of prompt and reply together."""

    def count(self, prompt: Prompt) -> int:
        """Return the number of tokens of a prompt, including the tokens of the chat template."""

    def lengths(self, texts: list[str]) -> list[int]:
        """Return the number of tokens of each text on its own, without special tokens."""

    def cut(self, text: str, tokens: int) -> str:
        """Return the longest prefix of ``text`` that ends at a token boundary and has at most ``tokens`` tokens."""
