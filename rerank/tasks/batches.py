"""The protocol of providers' batch interfaces: many requests in one file, answered within a day at a lower price."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from rerank.tasks.requests import Backend, Reply, Request


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchStatus:
    """The state of a batch at its provider.

    Attributes:
        id: The provider's id of the batch.
        state: The provider's word for the state.
        total: Number of its requests, 0 if the provider has not counted them yet.
        done: Number of requests that have been answered or have failed.
        has_ended: Whether the provider will change the batch no more.
        has_expired: Whether it ended because its time was over; its other requests may go into a further batch.
        problem: Why the provider stopped the batch; empty if it completed or expired.
        files: Names of the files with its results.
        omitted: Fields that its requests lack because the server refuses them.
    """

    id: str
    state: str
    total: int = 0
    done: int = 0
    has_ended: bool = False
    has_expired: bool = False
    problem: str = ""
    files: tuple[str, ...] = ()
    omitted: tuple[str, ...] = ()


@dataclass(kw_only=True)
class BatchReplies:
    """The results of a batch.

    Attributes:
        replies: Digest of a request -> its reply. Requests that failed are missing.
        problems: Sentences about requests that failed and about lines of the results that were ignored.
    """

    replies: dict[str, Reply] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


class BatchInterface(Protocol):
    """A provider's batch interface. Its methods block, and raise `BackendError` if the provider cannot be used."""

    def divide(self, requests: Mapping[str, Request]) -> Iterator[dict[str, Request]]:
        """Divide requests, keyed by their digests, into as many batches as the provider's limits require."""

    def submit(self, requests: Mapping[str, Request], key: str) -> str:
        """Submit a batch and return its id; if the provider already has a batch with this key, return that one's.

        Args:
            requests: Digest -> request.
            key: A text that no other batch has, at most 64 characters long.
        """

    def find(self, key: str) -> str:
        """Return the id of the batch that was submitted with this key; empty if the provider has none."""

    def wait(self, batch_id: str, on_status: Callable[[BatchStatus], None]) -> BatchStatus:
        """Wait until a batch has ended; ``on_status`` is called with every state that is seen."""

    def collect(self, status: BatchStatus, requests: Mapping[str, Request]) -> BatchReplies:
        """Return the results of a batch that has ended, for those of its requests that are given."""


@runtime_checkable
class BatchBackend(Backend, Protocol):
    """A backend whose provider has a batch interface."""

    @property
    def batches(self) -> BatchInterface:
        """The batch interface."""
