"""The protocol of providers' batch interfaces: many requests in one file, answered within a day at a lower price."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from rerank.tasks.requests import Backend, Reply, Request


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchStatus:
    """The state of a batch of requests at its provider.

    Attributes:
        id: The provider's id of the batch.
        state: Name of the state in the provider's API.
        total: Number of requests in the batch; 0 if the provider has not counted them yet.
        done: Number of requests that have been answered or have failed.
        has_ended: Whether the batch has reached a final state.
        has_expired: Whether the batch ended because its time limit was reached. The requests that were not answered
            may be submitted in another batch.
        problem: The reason why the provider stopped the batch; empty if the batch was completed or has expired.
        files: Names of the files that contain the results.
        omitted: Fields that were left out of the requests because the server refuses them.
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
    """The results of a batch of requests.

    Attributes:
        replies: Mapping from the digest of each request to its reply. Requests that failed are missing.
        problems: Messages about requests that failed and about lines of the results that were ignored.
    """

    replies: dict[str, Reply] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


class BatchInterface(Protocol):
    """A provider's batch interface. Its methods block, and raise `BackendError` if the provider cannot be used."""

    def divide(self, requests: Mapping[str, Request]) -> Iterator[dict[str, Request]]:
        """Divide requests, keyed by their digests, into as many batches as the provider's limits require."""

    def submit(self, requests: Mapping[str, Request], key: str) -> str:
        """Submit a batch, unless the provider already has a batch with this key, and return the id of the batch.

        Args:
            requests: Mapping from the digest of each request to the request.
            key: A text that is unique to the batch, at most 64 characters long.
        """

    def find(self, key: str) -> str:
        """Return the id of the batch that was submitted with this key; empty if the provider has none."""

    def wait(self, batch_id: str, on_status: Callable[[BatchStatus], None]) -> BatchStatus:
        """Wait until a batch has ended, and call ``on_status`` with each status received from the provider."""

    def collect(self, status: BatchStatus, requests: Mapping[str, Request]) -> BatchReplies:
        """Return the results of a batch that has ended, for the given requests only."""


@runtime_checkable
class BatchBackend(Backend, Protocol):
    """A backend whose provider has a batch interface."""

    @property
    def batches(self) -> BatchInterface:
        """The batch interface of the provider."""
