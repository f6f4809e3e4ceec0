"""Messages of workers to the process that started them. A worker waits until its message is answered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rerank.tasks import Reply, Request


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenModel:
    """An announcement that a worker is about to open its model. The answer is None.

    Attributes:
        ticket: Number of the worker's task.
    """

    ticket: int


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenBlock:
    """A request of a worker for its next block. The answer is a `BlockWork`, or None if there are no more blocks.

    Attributes:
        ticket: Number of the worker's task. If the worker is lost, Ray repeats the task, and thus this message.
        worker: Ray's handle of the worker, with which the worker can be stopped.
    """

    ticket: int
    worker: Any = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockWork:
    """A block of items that a worker has to process.

    Attributes:
        block: Number of the block, from 0.
        items: Ray's reference to the items.
        one_by_one: Whether each item must be announced (`OpenItem`) and processed alone, because workers were lost.
        attempt: Number of workers that have been lost with this block.
    """

    block: int
    items: Any
    one_by_one: bool
    attempt: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockMessage:
    """A message about one block.

    A worker that was considered lost may be alive; its messages are ignored, because another worker has the block.

    Attributes:
        block: Number of the block, from 0.
        attempt: The attempt of the `BlockWork`.
    """

    block: int
    attempt: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenItem(BlockMessage):
    """An announcement that a worker starts to process one item, if items are processed one by one.

    The answer is a reason for giving the item up instead of processing it; empty if there is none. Workers
    that rerank lists ignore the reason, because their calls are refused one by one.

    Attributes:
        position: Position of the item in the block, from 0.
    """

    position: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BeginCalls(BlockMessage):
    """Requests that a worker is about to send to its model. The answer is a `rerank.store.call_desk.BegunCalls`.

    Attributes:
        requests: Mapping from digest to request.
    """

    requests: Mapping[str, Request]


@dataclass(frozen=True, slots=True, kw_only=True)
class KeepCalls(BlockMessage):
    """New replies of the model, to be logged. The answer is None, sent when the replies are committed.

    Attributes:
        replies: Mapping from digest to reply.
    """

    replies: Mapping[str, Reply]


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishBlock(BlockMessage):
    """The results of a block. The answer is None.

    Attributes:
        results: The results, in the order of the items of the block.
    """

    results: Sequence[Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fail:
    """An error that ends the work. There is no answer.

    Attributes:
        block: Number of the worker's block; None if the worker has not received a block yet.
        attempt: The attempt of the `BlockWork`; the error of a worker that was considered lost is ignored.
        error: The error.
    """

    block: int | None = None
    attempt: int = 0
    error: Exception
