"""A backend that answers from a call log before it asks the backend behind it, and commits what that one answers.

A run that is killed loses at most the batch that was under way; resuming is asking the same questions again. Knows
calls and what they cost, not rankings or files.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rerank.prompts.base import TokenCounter
from rerank.store.calls import CallLog
from rerank.tasks import Backend, Reply, Request, tasks_of


@dataclass(kw_only=True)
class Usage:
    """What a run has cost so far. Requests that were asked again within the run count once.

    Attributes:
        calls: Replies that the result rests on.
        reused_calls: Those among them that were committed before this process asked.
        tokens_in: Prompt tokens of all of them.
        tokens_out: Generated tokens of all of them.
        seconds: Model time of all of them, as measured when they were made.
        steps: Forward passes after the prompts' own, where the backend could tell.
        truncated: Replies that ended because they had no tokens left.
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
class Logged:
    """A backend that answers from a call log and commits what the backend behind it answers, batch by batch.

    Batches are formed from all requests, the longest prompts first, before the log is looked at. So a resumed run
    forms the batches that an uninterrupted one would have, and numbers that depend on a batch's padding cannot differ.
    Failed calls (``finish == "error"``) are not committed: the next resume asks them again.

    Attributes:
        backend: Who answers what is not in the log.
        log: The run's calls.
        cache: Calls of other runs to answer from and add to; None for none.
        max_total_tokens: The first request that could take the run past this, and all after it, are answered with an
            error; None for no cap.
        on_reply: Called once a request, for progress bars.
        usage: What it has cost so far.
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
        """That of the backend behind."""
        return self.backend.identity

    @property
    def answers(self) -> frozenset[type[Any]]:
        """The tasks of the backend behind."""
        return tasks_of(self.backend)

    @property
    def tokens(self) -> TokenCounter:
        """Those of the backend behind."""
        return self.backend.tokens

    @property
    def batch_size(self) -> int:
        """That of the backend behind."""
        return self.backend.batch_size

    @property
    def costs_money(self) -> bool:
        """That of the backend behind."""
        return self.backend.costs_money

    def generate(self, requests: Sequence[Request]) -> list[Reply]:
        """Answer all requests, in order."""
        identity = self.backend.identity
        digests = [request.digest(identity) for request in requests]
        lengths = [sum(len(message.content) for message in request.prompt) for request in requests]
        longest_first = sorted(range(len(requests)), key=lambda i: (-lengths[i], i))
        replies: dict[str, Reply] = {}
        for at in range(0, len(requests), self.batch_size):
            chosen = longest_first[at : at + self.batch_size]
            batch = {digests[i]: requests[i] for i in chosen}
            replies |= self._answer({d: r for d, r in batch.items() if d not in replies})
            for i in chosen:
                self.on_reply(replies[digests[i]])
        return [replies[digest] for digest in digests]

    def _answer(self, batch: Mapping[str, Request]) -> dict[str, Reply]:
        """Answer one batch: from the log, from the cache, then by asking; what was asked is committed at once."""
        known = self.log.get(list(batch))
        fresh = {digest: request for digest, request in batch.items() if digest not in known}
        if self.cache is not None and fresh and (cached := self.cache.get(list(fresh))):
            self._commit(self.log, fresh, cached)
            known |= cached
            fresh = {digest: request for digest, request in fresh.items() if digest not in cached}
        self._count(known, reused=True)
        asked = self._ask(fresh)
        self._count(asked, reused=False)
        return known | asked

    def _count(self, replies: Mapping[str, Reply], *, reused: bool) -> None:
        for digest, reply in replies.items():
            if digest not in self._counted and reply.finish != "error":
                self._counted.add(digest)
                self.usage.add(reply, reused=reused)

    def _ask(self, fresh: Mapping[str, Request]) -> dict[str, Reply]:
        wanted = self._within_cap(fresh)
        answers = self.backend.generate(list(wanted.values())) if wanted else []
        asked = dict(zip(wanted, answers, strict=True))
        for log in (self.log, self.cache):
            if log is not None and asked:
                self._commit(log, wanted, asked)
        spent = self.usage.tokens_in + self.usage.tokens_out
        error = (
            f"--max-total-tokens {self.max_total_tokens} would be passed; raise it and pass --resume ({spent} spent)"
        )
        return asked | {d: Reply(text="", finish="error", error=error) for d in fresh if d not in wanted}

    def _within_cap(self, fresh: Mapping[str, Request]) -> Mapping[str, Request]:
        """The requests before the first that could pass the cap, if every reply is as long as it may be."""
        if self.max_total_tokens is None:
            return fresh
        total = self.usage.tokens_in + self.usage.tokens_out
        wanted: dict[str, Request] = {}
        for digest, request in fresh.items():
            sampling = request.sampling
            total += self.tokens.count(request.prompt) + sampling.max_tokens + sampling.thinking
            self._capped = self._capped or total > self.max_total_tokens
            if self._capped:
                break
            wanted[digest] = request
        return wanted

    def _commit(self, log: CallLog, requests: Mapping[str, Request], replies: Mapping[str, Reply]) -> None:
        rows = [(digest, requests[digest], reply) for digest, reply in replies.items() if reply.finish != "error"]
        log.put(rows, self.backend.identity.get("model", ""))
