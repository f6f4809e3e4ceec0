"""A backend that answers from a call log if it can, and commits the replies of the backend that it wraps.

A run that is killed loses at most the batch in progress. To resume is to send the same requests again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rerank.prompts.base import TokenCounter
from rerank.store.call_log import CallLog
from rerank.tasks import Backend, Reply, Request, supported_tasks


@dataclass(kw_only=True)
class Usage:
    """The cost of a run so far. A request that is repeated within the run counts once.

    Attributes:
        calls: Number of replies that the result is based on.
        reused_calls: Number of these replies that were committed before this process started.
        tokens_in: Prompt tokens of all replies.
        tokens_out: Completion tokens of all replies.
        seconds: Model time of all replies, as measured when they were generated.
        steps: Forward passes after the prefill, if the backend reports them.
        truncated: Number of replies that ended at their token limit.
    """

    calls: int = 0
    reused_calls: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    seconds: float = 0.0
    steps: int = 0
    truncated: int = 0

    def add(self, reply: Reply, *, reused: bool) -> None:
        """Count one reply."""
        self.calls += 1
        self.reused_calls += reused
        self.tokens_in += reply.tokens_in
        self.tokens_out += reply.tokens_out
        self.seconds += reply.seconds
        self.steps += reply.steps
        self.truncated += reply.finish == "length"


@dataclass(kw_only=True)
class LoggingBackend:
    """A backend that answers from a call log and commits the replies of the wrapped backend, batch by batch.

    Batches are formed from all requests, the longest prompts first, before the log is read. A resumed run therefore
    forms the same batches as an uninterrupted one, and results that depend on the padding of a batch cannot differ.
    Failed calls (``finish == "error"``) are not committed, so that the next resume repeats them.

    Attributes:
        backend: The wrapped backend, which answers the requests that are not in the log.
        log: The call log of the run.
        cache: A call log shared with other runs, to read from and add to; None for none.
        max_total_tokens: Cap on prompt and completion tokens. The first request that could exceed it, and all later
            ones, get an error as reply; None for no cap.
        on_reply: Called once per request, for progress bars.
        usage: The cost so far.
    """

    backend: Backend
    log: CallLog
    cache: CallLog | None = None
    max_total_tokens: int | None = None
    on_reply: Callable[[Reply], None] = field(default=lambda reply: None)
    usage: Usage = field(default_factory=Usage)
    _counted: set[str] = field(default_factory=set)
    _capped: bool = False

    @property
    def identity(self) -> Mapping[str, str]:
        """Identity of the wrapped backend."""
        return self.backend.identity

    @property
    def tasks(self) -> frozenset[type[Any]]:
        """Tasks that the wrapped backend supports."""
        return supported_tasks(self.backend)

    @property
    def tokens(self) -> TokenCounter:
        """Token counter of the wrapped backend."""
        return self.backend.tokens

    @property
    def batch_size(self) -> int:
        """Batch size of the wrapped backend."""
        return self.backend.batch_size

    @property
    def costs_money(self) -> bool:
        """Whether calls of the wrapped backend cost money."""
        return self.backend.costs_money

    def generate(self, requests: Sequence[Request]) -> list[Reply]:
        """Return one reply per request, in the order of the requests."""
        identity = self.backend.identity
        digests = [request.digest(identity) for request in requests]
        lengths = [sum(len(message.content) for message in request.prompt) for request in requests]
        longest_first = sorted(range(len(requests)), key=lambda i: (-lengths[i], i))
        replies: dict[str, Reply] = {}
        for start in range(0, len(requests), self.batch_size):
            indices = longest_first[start : start + self.batch_size]
            batch = {digests[i]: requests[i] for i in indices}
            replies |= self._answer({d: r for d, r in batch.items() if d not in replies})
            for i in indices:
                self.on_reply(replies[digests[i]])
        return [replies[digest] for digest in digests]

    def _answer(self, batch: Mapping[str, Request]) -> dict[str, Reply]:
        """Answer one batch from the log, then from the cache, then with the wrapped backend."""
        reused = self.log.get(list(batch))
        open_requests = {digest: request for digest, request in batch.items() if digest not in reused}
        if self.cache is not None and open_requests and (cached := self.cache.get(list(open_requests))):
            self._commit(self.log, open_requests, cached)
            reused |= cached
            open_requests = {digest: request for digest, request in open_requests.items() if digest not in cached}
        self._count(reused, reused=True)
        generated = self._generate(open_requests)
        self._count(generated, reused=False)
        return reused | generated

    def _count(self, replies: Mapping[str, Reply], *, reused: bool) -> None:
        for digest, reply in replies.items():
            if digest not in self._counted and reply.finish != "error":
                self._counted.add(digest)
                self.usage.add(reply, reused=reused)

    def _generate(self, requests: Mapping[str, Request]) -> dict[str, Reply]:
        """Send the requests within the cap to the wrapped backend and commit its replies; fail the other requests."""
        affordable = self._within_cap(requests)
        replies = self.backend.generate(list(affordable.values())) if affordable else []
        generated = dict(zip(affordable, replies, strict=True))
        for log in (self.log, self.cache):
            if log is not None and generated:
                self._commit(log, affordable, generated)
        spent = self.usage.tokens_in + self.usage.tokens_out
        error = (
            f"--max-total-tokens {self.max_total_tokens} could be exceeded ({spent} tokens used); "
            "raise it and pass --resume"
        )
        return generated | {d: Reply(text="", finish="error", error=error) for d in requests if d not in affordable}

    def _within_cap(self, requests: Mapping[str, Request]) -> Mapping[str, Request]:
        """Return the requests before the first that could exceed the cap if every reply had its maximum length."""
        if self.max_total_tokens is None:
            return requests
        total = self.usage.tokens_in + self.usage.tokens_out
        affordable: dict[str, Request] = {}
        for digest, request in requests.items():
            sampling = request.sampling
            total += self.tokens.count(request.prompt) + sampling.max_tokens + sampling.thinking
            self._capped = self._capped or total > self.max_total_tokens
            if self._capped:
                break
            affordable[digest] = request
        return affordable

    def _commit(self, log: CallLog, requests: Mapping[str, Request], replies: Mapping[str, Reply]) -> None:
        rows = [(digest, requests[digest], reply) for digest, reply in replies.items() if reply.finish != "error"]
        log.put(rows, self.backend.identity.get("model", ""))
