"""Messages of workers to the process that owns the run folder. Each is answered; until then, the worker waits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rerank.pipeline.results import RankedList
from rerank.tasks import Reply, Request


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockMessage:
    """A message about one block of lists.

    Attributes:
        block: Number of the block, from 0.
    """

    block: int


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenBlock(BlockMessage):
    """A worker is about to rank a block. The answer is a `BlockWork`, or None if the block is finished already.

    Attributes:
        worker: Ray's handle of the worker, with which it can be ended.
    """

    worker: Any = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockWork:
    """The work of a block.

    Attributes:
        lists: Ray's reference to the lists.
        one_by_one: Whether the lists are to be ranked and announced one by one, because workers were lost.
    """

    lists: Any
    one_by_one: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenList(BlockMessage):
    """A worker is about to rank one list of a block whose lists are ranked one by one. The answer is None.

    Attributes:
        position: Position of the list in its block.
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
    """The results of a block, in the order of its lists. The answer is None."""

    results: Sequence[RankedList]


@dataclass(frozen=True, slots=True, kw_only=True)
class FailBlock(BlockMessage):
    """An error that ends the run. There is no answer.

    Attributes:
        error: The error.
    """

    error: Exception
