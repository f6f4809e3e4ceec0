"""What a backend is: something that answers prompts. Extra powers are extra protocols, asked for with isinstance.

This module knows neither strategies nor parsing: a reply is text, whatever the text says.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Literal, Protocol, runtime_checkable

from rerank.prompts.base import Message, Prompt, TokenCounter
from rerank.types import Query, Window

__all__ = ["Backend", "Message", "Prompt", "Reply", "Request", "Sampling"]

#: Why a reply ended. ``error``: no reply came; ``refused``: the provider's filter stopped it.
Finish = Literal["stop", "length", "refused", "error"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How to decode.

    Attributes:
        max_tokens: The most tokens to generate.
        min_tokens: No end of sequence before that many.
        temperature: 0 is greedy.
        top_p: Nucleus; without effect when greedy.
        seed: For sampling; without effect when greedy.
    """

    max_tokens: int
    min_tokens: int = 0
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One call: a prompt, how to decode, and the window it was rendered from.

    Attributes:
        prompt: The chat.
        sampling: How to decode.
        window: What is being asked about. Models never see it; the call log and the fake backend do.
    """

    prompt: Prompt
    sampling: Sampling
    window: Window = field(default_factory=lambda: Window(Query(id=""), ()))

    def digest(self, identity: Mapping[str, str]) -> str:
        """Hex SHA-256 of what was asked: the backend's identity, the chat, the sampling, and the window it is about.

        The window counts although models never see it: two queries may have the same words.
        """
        about = [self.window.query.id, [doc.id for doc in self.window.docs]]
        content = [dict(identity), [[m.role, m.content] for m in self.prompt], asdict(self.sampling), about]
        return hashlib.sha256(json.dumps(content, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What came back.

    Attributes:
        text: The answer, with the beginning that the prompt gave it; empty if there is none.
        tokens_in: Tokens of the prompt.
        tokens_out: Tokens generated.
        seconds: Wall time of this call; a batch's time is shared evenly among its calls.
        finish: Why it ended.
        error: What went wrong, for ``finish == "error"``; it never reaches a parser.
    """

    text: str
    tokens_in: int = 0
    tokens_out: int = 0
    seconds: float = 0.0
    finish: Finish = "stop"
    error: str = ""


@runtime_checkable
class Backend(Protocol):
    """Something that answers prompts."""

    @property
    def identity(self) -> Mapping[str, str]:
        """Everything about the model that can change an answer: name, revision or hash, dtype, adapter."""

    @property
    def tokens(self) -> TokenCounter:
        """How the model counts."""

    @property
    def batch_size(self) -> int:
        """How many requests to hand over at a time; what is handed over together is committed together."""

    @property
    def costs_money(self) -> bool:
        """Whether a call is worth keeping beyond its run (the call cache asks)."""

    def generate(self, requests: Sequence[Request]) -> list[Reply]:
        """Answer all requests, in order.

        A failure of one request is its reply (``finish="error"``), so that the others are kept.

        Raises:
            BackendError: Nothing can be answered (no model, no server, a rejected key).
        """
