"""What a backend is: something that answers requests. Kinds of request are in `rerank.tasks.kinds`.

This module knows neither strategies nor parsing: a reply is text, whatever the text says.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

from rerank.io.pictures import picture_hash
from rerank.prompts.base import Message, Prompt, TokenCounter
from rerank.tasks.kinds import (
    AttentionTask,
    ContinuationTask,
    CrossEncoderTask,
    GenerationTask,
    LikelihoodTask,
    PermutationTask,
    Task,
    tasks_of,
)
from rerank.types import Query, Window

__all__ = [
    "AttentionTask",
    "Backend",
    "ContinuationTask",
    "CrossEncoderTask",
    "GenerationTask",
    "LikelihoodTask",
    "Message",
    "PermutationTask",
    "Prompt",
    "Reply",
    "Request",
    "Sampling",
    "Task",
    "tasks_of",
]

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
        thinking: Tokens that a reasoning model may think for before it answers, on top of ``max_tokens``; 0 asks it
            not to think.
    """

    max_tokens: int
    min_tokens: int = 0
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    thinking: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One call: a prompt, how to decode, and the window it was rendered from.

    Attributes:
        prompt: The chat.
        sampling: How to decode.
        window: What is being asked about. Models never see it; the call log and the fake backend do.
        task: What is wanted: text, or something else that `rerank.tasks.kinds` lists.
    """

    prompt: Prompt
    sampling: Sampling
    window: Window = field(default_factory=lambda: Window(Query(id=""), ()))
    task: Task = GenerationTask()  # noqa: RUF009 - frozen and empty

    def digest(self, identity: Mapping[str, str]) -> str:
        """Hex SHA-256 of what was asked: the backend's identity, chat, sampling, task, and the window it is about.

        Pictures count by what is in their files, not by where these lie.

        The window counts although models never see it: two queries may have the same words.
        """
        about = [self.window.query.id, [doc.id for doc in self.window.docs]]
        sampling = asdict(self.sampling)
        if not self.sampling.thinking:
            del sampling["thinking"]  # requests that were committed before there was such a thing stay what they were
        turns = [[m.role, m.content, *map(picture_hash, m.images)] for m in self.prompt]
        content: list[Any] = [dict(identity), turns, sampling, about]
        if not isinstance(self.task, GenerationTask):
            later = ("weights", "length_power")  # likewise
            fields = asdict(self.task, dict_factory=_without_images)
            task = {key: value for key, value in fields.items() if value or key not in later}
            content.append({"task": type(self.task).__name__, **task})
        return hashlib.sha256(json.dumps(content, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def _without_images(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A turn as it was before turns could have pictures, if it has none."""
    return dict(pair for pair in pairs if pair != ("images", ()))


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What came back.

    Attributes:
        text: The answer, with the beginning that the prompt gave it; empty if there is none.
        scores: The numbers, where the task asks for numbers.
        thoughts: What a reasoning model wrote before its answer; no part of ``text``.
        tokens_in: Tokens of the prompt.
        tokens_out: Tokens generated.
        seconds: Wall time of this call; a batch's time is shared evenly among its calls.
        steps: Forward passes after the prompt's own, where the backend can tell.
        finish: Why it ended.
        error: What went wrong, for ``finish == "error"``; it never reaches a parser.
    """

    text: str = ""
    scores: tuple[float, ...] = ()
    thoughts: str = ""
    tokens_in: int = 0
    tokens_out: int = 0
    seconds: float = 0.0
    steps: int = 0
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
