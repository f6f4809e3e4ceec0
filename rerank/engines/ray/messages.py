"""Messages of workers to the process that started them. Each is answered; until then, the worker waits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rerank.tasks import Reply, Request


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenBlock:
    """A worker asks for its next block. The answer is a `BlockWork`, or None at the end.

    Attributes:
        ticket: Number of the worker's task. If the worker is lost, Ray repeats the task, and so this message.
        worker: Ray's handle of the worker, with which it can be ended.
    """

    ticket: int
    worker: Any = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockWork:
    """The work of a block.

    Attributes:
        block: Number of the block, from 0.
        items: Ray's reference to the items.
        one_by_one: Whether the items are to be processed and announced one by one, because workers were lost.
    """

    block: int
    items: Any
    one_by_one: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockMessage:
    """A message about one block.

    Attributes:
        block: Number of the block, from 0.
    """

    block: int


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenItem(BlockMessage):
    """A worker is about to process one item of a block whose items are processed one by one. The answer is None.

    Attributes:
        position: Position of the item in its block.
    """

    position: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BeginCalls(BlockMessage):
    """A batch of requests: digest -> request. The answer is a `rerank.store.call_desk.BegunCalls`."""

    requests: Mapping[str, Request]


@dataclass(frozen=True, slots=True, kw_only=True)
class KeepCalls(BlockMessage):
    """New replies: digest -> reply. The answer is None, once they are committed."""

    replies: Mapping[str, Reply]


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishBlock(BlockMessage):
    """The results of a block, in the order of its items. The answer is None."""

    results: Sequence[Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fail:
    """An error that ends the work. There is no answer.

    Attributes:
        block: Number of the block; None if the worker has none yet.
        error: The error.
    """

    block: int | None = None
    error: Exception
