"""Requests to backends, their replies, and the backend protocol. The tasks of requests are in `rerank.tasks.kinds`."""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

from rerank.errors import ensure
from rerank.io.pictures import picture_hash
from rerank.io.text_files import replace_lone_surrogates
from rerank.prompts.base import Prompt, TokenCounter
from rerank.tasks.kinds import GenerationTask, Task
from rerank.types import Query, Window

#: Finish reason of a reply. ``length``: the reply reached the token limit; ``refused``: a content filter stopped the
#: reply; ``error``: no reply arrived.
Finish = Literal["stop", "length", "refused", "error"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """Decoding settings of a request."""

    max_tokens: int  # maximum number of tokens to generate
    min_tokens: int = 0  # minimum number of tokens before the end of sequence
    temperature: float = 0.0  # 0 for greedy decoding
    top_p: float = 1.0  # probability mass of nucleus sampling; no effect on greedy decoding
    seed: int = 0  # no effect on greedy decoding
    #: Maximum number of tokens for the thoughts of a reasoning model, in addition to ``max_tokens``; 0 for no thoughts.
    thinking: int = 0

    def __post_init__(self) -> None:
        found = f"The temperature is {self.temperature}"
        ensure(0 <= self.temperature < math.inf, found, expected="a finite number of at least 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One request to a model: a prompt, a task and decoding settings."""

    prompt: Prompt
    sampling: Sampling
    #: The window from which the prompt was rendered. It is not passed to models, only to the call log and to the fake
    #: backend.
    window: Window = field(default_factory=lambda: Window(Query(id=""), ()))
    task: Task = GenerationTask()  # noqa: RUF009 - frozen and empty
    #: Number of tokens that were cut from each document of the window to make the prompt fit; empty if no document was
    #: cut. It is neither passed to models nor part of the digest.
    dropped: tuple[int, ...] = field(default=(), compare=False)

    def digest(self, identity: Mapping[str, str]) -> str:
        """Return the hex SHA-256 of the backend's identity, the chat, the sampling settings, the task and the window.

        Pictures are identified by the contents of their files, not by their paths. The window is included, although
        models do not receive it, because two queries may have the same text.
        """
        about = [self.window.query.id, [doc.id for doc in self.window.docs]]
        turns = [[m.role, m.content, *map(picture_hash, m.images)] for m in self.prompt]
        sampling = asdict(self.sampling, dict_factory=_digest_fields)
        content: list[Any] = [dict(identity), turns, sampling, about]
        if not isinstance(self.task, GenerationTask):
            # Looked up in the class itself: a subclass without its own name must not share the digests of its parent.
            name = vars(type(self.task)).get("format_name", type(self.task).__name__)
            content.append({"task": name, **asdict(self.task, dict_factory=_digest_fields)})
        return hashlib.sha256(json.dumps(content, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


#: Fields that were added after the first digests. They enter a digest only if they differ from their (empty) default,
#: so that older requests keep their digests. List every new field here.
_LATER_FIELDS = frozenset({"images", "thinking", "weights", "length_power", "per_token"})


def _digest_fields(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """Return the fields for a request's digest, which excludes newer fields with their default value."""
    return {name: value for name, value in pairs if value or name not in _LATER_FIELDS}


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """The reply of a model to a request."""

    #: The generated text, including the beginning that the prompt contains; empty if there is none.
    text: str = ""
    scores: tuple[float, ...] = ()  # empty unless the task requests scores
    thoughts: str = ""  # thoughts of a reasoning model before its answer; not part of ``text``
    tokens_in: int = 0
    tokens_out: int = 0
    tokens_cached: int = 0  # prompt tokens that were taken from a cache instead of being computed
    search_units: float = 0.0  # search units that an API bills instead of tokens
    seconds: float = 0.0  # wall-clock time of this call; the time of a batch is divided evenly among its calls
    steps: int = 0  # forward passes after the prefill; 0 if the backend does not report it
    finish: Finish = "stop"
    #: Error message if there is nothing to parse, because no reply arrived (``finish`` is "error") or it is invalid.
    error: str = ""
    retries: int = 0  # number of attempts after the first that the reply took
    served_model: str = ""  # name of the model that answered; empty if the server does not state it
    fingerprint: str = ""  # the server's identifier of the configuration of the model; empty if it states none
    is_batched: bool = False  # whether it came through the provider's batch interface, for which other prices apply
    #: Whether the reply comes from a log or a cache of replies instead of the model.
    reused: bool = field(default=False, compare=False)

    def __post_init__(self) -> None:
        for name in ("text", "thoughts", "error"):
            object.__setattr__(self, name, replace_lone_surrogates(getattr(self, name)))


@dataclass(kw_only=True)
class Usage:
    """The total number of calls, number of tokens and time in seconds of several replies."""

    calls: int = 0
    reused_calls: int = 0  # replies that came from a call log instead of the model
    tokens_in: int = 0
    tokens_out: int = 0
    seconds: float = 0.0  # total model time, measured when the replies were generated
    steps: int = 0  # forward passes after the prefill, if the backend reports them
    truncated: int = 0  # replies that ended at their token limit
    tokens_cached: int = 0  # prompt tokens that were taken from the model's cache instead of being computed
    search_units: float = 0.0  # search units that APIs billed instead of tokens
    retries: int = 0  # attempts after the first that the replies took
    served_models: dict[str, int] = field(default_factory=dict)  # replies per model that answered, if servers name it
    fingerprints: dict[str, int] = field(default_factory=dict)  # replies per fingerprint, if servers state one
    #: The part of ``calls``, ``tokens_in``, ``tokens_out`` and ``tokens_cached`` that came through a provider's batch
    #: interface; empty if there was none.
    batched: dict[str, int] = field(default_factory=dict)

    @property
    def cached_share(self) -> float:
        """The fraction of the prompt tokens that were taken from a cache; 0 if there are no prompt tokens."""
        return min(1.0, self.tokens_cached / self.tokens_in) if self.tokens_in else 0.0

    def add_answer(self, reply: Reply) -> None:
        """Add the new cost of a reply: a reused reply counts as a call without tokens, a failed reply is ignored."""
        if reply.finish != "error":
            self.add(Reply() if reply.reused else reply, reused=reply.reused)

    def add(self, reply: Reply, *, reused: bool = False) -> None:
        """Add a reply and all its tokens to the totals; with ``reused``, also count it as a reused call."""
        self.calls += 1
        self.reused_calls += reused
        self.tokens_in += reply.tokens_in
        self.tokens_out += reply.tokens_out
        self.seconds += reply.seconds
        self.steps += reply.steps
        self.truncated += reply.finish == "length"
        self.tokens_cached += reply.tokens_cached
        self.search_units += reply.search_units
        self.retries += reply.retries
        for counts, name in ((self.served_models, reply.served_model), (self.fingerprints, reply.fingerprint)):
            if name:
                counts[name] = counts.get(name, 0) + 1
        if reply.is_batched:
            part = {"calls": 1} | {n: getattr(reply, n) for n in ("tokens_in", "tokens_out", "tokens_cached")}
            self.batched = {name: self.batched.get(name, 0) + count for name, count in part.items()}


class CancelledAfterReplyError(asyncio.CancelledError):
    """Raised if a request is cancelled while it is repeated because the first reply, which is billed, is unreadable."""

    def __init__(self, reply: Reply) -> None:
        super().__init__()
        self.reply = reply


@runtime_checkable
class Backend(Protocol):
    """Protocol of backends, the components that run models.

    Optional attributes, such as the tasks that a backend supports, and their defaults are those of
    `rerank.tasks.backends.BaseBackend`, which may be the base class.
    """

    @property
    def identity(self) -> Mapping[str, str]:
        """All properties of the model that can change a reply: name, revision or hash, dtype, adapter."""

    @property
    def tokens(self) -> TokenCounter:
        """The model's token counter."""

    @property
    def batch_size(self) -> int:
        """Number of requests to pass to `generate` at once; their replies are written to the call log together."""

    @property
    def costs_money(self) -> bool:
        """Whether calls cost money. If so, their replies are kept in the call cache beyond the run."""

    def generate(self, requests: Sequence[Request]) -> list[Reply]:
        """Return the replies to all requests, in order. A request that fails gets a reply with ``finish="error"``.

        Raises `BackendError` if no request can be answered (no model, no server, a rejected key).
        """


@runtime_checkable
class AsyncBackend(Backend, Protocol):
    """A backend that waits for a network or an engine. It accepts single requests, from many callers at the same time.

    Its connections belong to the background loop (`rerank.tasks.concurrency`), are opened by the first request, and
    are kept for later requests.
    """

    async def agenerate(self, request: Request) -> Reply:
        """Return the reply to one request, with ``finish="error"`` if it fails.

        This may be awaited on any event loop, and any number of times concurrently. The backend itself limits the
        number of requests in progress, for all callers together; the others wait. Cancelling the call cancels the
        request. The time recorded in the reply does not include the wait for other requests.

        Raises `BackendError` if no request can be answered (no model, no server, a rejected key, no credit), and
        `UsageError` if the model lacks a capability that the request needs.
        """

    def close(self) -> None:
        """Close the connections; may be called repeatedly. Requests in progress fail; a later request reconnects."""

    async def aclose(self) -> None:
        """Close the connections without blocking; may be awaited on any event loop."""
