"""The total number of calls, number of tokens and time in seconds of a model's replies."""

from __future__ import annotations

from dataclasses import dataclass, field

from rerank.tasks.requests import Reply


@dataclass(kw_only=True)
class Usage:
    """The total number of calls, number of tokens and time in seconds of several replies.

    Attributes:
        calls: Number of replies.
        reused_calls: Number of these replies that came from a call log instead of the model.
        tokens_in: Prompt tokens of all replies.
        tokens_out: Completion tokens of all replies.
        seconds: Total model time, measured when the replies were generated.
        steps: Forward passes after the prefill, if the backend reports them.
        truncated: Number of replies that ended at their token limit.
        tokens_cached: Prompt tokens that were taken from the model's cache instead of being computed.
        search_units: Search units that APIs billed instead of tokens.
        retries: Number of attempts after the first that the replies took.
        served_models: Number of replies per model that answered, for servers that state its name.
        fingerprints: Number of replies per fingerprint, for servers that state one.
        batched: The part of ``calls``, ``tokens_in``, ``tokens_out`` and ``tokens_cached`` that came through a
            provider's batch interface; empty if there was none.
    """

    calls: int = 0
    reused_calls: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    seconds: float = 0.0
    steps: int = 0
    truncated: int = 0
    tokens_cached: int = 0
    search_units: float = 0.0
    retries: int = 0
    served_models: dict[str, int] = field(default_factory=dict)
    fingerprints: dict[str, int] = field(default_factory=dict)
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
            part = {
                "calls": 1,
                "tokens_in": reply.tokens_in,
                "tokens_out": reply.tokens_out,
                "tokens_cached": reply.tokens_cached,
            }
            self.batched = {name: self.batched.get(name, 0) + count for name, count in part.items()}
