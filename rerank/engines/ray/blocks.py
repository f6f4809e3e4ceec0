"""The blocks of a run that workers rank: which are open, what becomes of those of lost workers, and their results.

Nothing here uses Ray: `RankingBlocks` is a state machine that gets the messages of workers and returns the answers.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Final

from rerank.engines.ray.messages import (
    BeginCalls,
    BlockMessage,
    BlockWork,
    FailBlock,
    FinishBlock,
    KeepCalls,
    OpenBlock,
    OpenList,
)
from rerank.errors import BackendError
from rerank.pipeline.results import RankedList
from rerank.store.call_desk import CallDesk
from rerank.types import Ranking

_log = logging.getLogger(__name__)

#: Number of workers that a block may lose without a new reply before its lists are ranked one by one, and that a list
#: may then lose before it is set aside.
_PATIENCE = 2
#: The answer to a message that must wait for another one.
WAIT: Final = object()


@dataclass(kw_only=True)
class _Block:
    """A block whose results have not been taken yet.

    Attributes:
        lists: The lists.
        shared: What workers get in place of the lists.
        results: The results, once they are there.
        worker: The worker that ranks it; None before the first.
        stalls: Number of workers that were lost since the last new reply.
        position: Position of the list that is being ranked, if lists are ranked one by one.
        losses: Position of a list -> number of workers that were lost while they ranked this list alone.
        busy_since: `time.monotonic` value of the last answer to its worker; None while the worker waits.
    """

    lists: Sequence[Ranking]
    shared: Any
    results: Sequence[RankedList] | None = None
    worker: Any = None
    stalls: int = 0
    position: int | None = None
    losses: Counter[int] = field(default_factory=Counter)
    busy_since: float | None = None

    def refusal(self) -> str:
        """Return why a list that is being ranked alone gets no new replies; empty if it gets some."""
        losses = 0 if self.position is None else self.losses[self.position]
        return f"{losses} workers ended during the calls for this query" if losses >= _PATIENCE else ""


class RankingBlocks:
    """The blocks of a run; the results are yielded in the order of the lists.

    Args:
        lists: The first-stage lists, which are read block by block when workers open the blocks.
        desk: Answers the calls of the workers.
        size: Number of lists per block.
        ahead: Number of blocks, from the oldest one without a result on, that may be open. Later ones wait while
            another worker ranks the oldest one.
        share: Makes what workers get in place of the lists of a block.
    """

    def __init__(
        self,
        lists: Iterable[Ranking],
        desk: CallDesk,
        *,
        size: int,
        ahead: int,
        share: Callable[[Sequence[Ranking]], Any] = lambda lists: lists,
    ) -> None:
        """Start without open blocks."""
        self._source, self._desk, self._size, self._ahead, self._share = iter(lists), desk, size, ahead, share
        self._blocks: dict[int, _Block] = {}
        self._oldest = self._read = 0
        self.lost_workers = self.lost_calls = 0

    def answer(self, message: BlockMessage) -> Any:
        """Return the answer to a message, or `WAIT` if it has to be asked for again after another message.

        Raises:
            BackendError: A list ends its workers even without new calls.
            Exception: A worker reports an error that ends the run.
        """
        block = self._blocks.get(message.block)
        if block is not None:
            block.busy_since = None
        answer = self._answer(message)
        if answer is not WAIT and (block := self._blocks.get(message.block)) is not None and block.results is None:
            block.busy_since = time.monotonic()
        return answer

    def take_results(self) -> Iterator[RankedList]:
        """Yield the results that are next in the order of the lists."""
        while (block := self._blocks.get(self._oldest)) is not None and block.results is not None:
            del self._blocks[self._oldest]
            self._oldest += 1
            yield from block.results

    def has_calls_in_flight(self) -> bool:
        """Return whether workers have begun calls whose replies they have not handed over."""
        return self._desk.has_calls_in_flight()

    def read_to_end(self) -> None:
        """Read what is left of the lists, so that their source can check that they have not changed."""
        for _ in self._source:
            pass

    def overdue_workers(self, seconds: float) -> list[Any]:
        """Return the workers that have been silent for longer; each is returned only once."""
        latest = time.monotonic() - seconds
        overdue = [block for block in self._blocks.values() if (block.busy_since or latest) < latest]
        for block in overdue:
            block.busy_since = None
        return [block.worker for block in overdue]

    def _answer(self, message: BlockMessage) -> Any:
        if isinstance(message, OpenBlock):
            return self._open(message)
        block = self._blocks.get(message.block)
        if block is None:
            return None  # a worker that was taken for lost has outlived its block
        match message:
            case OpenList():
                block.position = message.position
            case BeginCalls():
                begun = self._desk.begin(message.block, message.requests, refusal=block.refusal())
                return WAIT if begun is None else begun
            case KeepCalls():
                self._desk.keep(message.block, message.replies)
                block.stalls = 0
            case FinishBlock():
                block.results = message.results
            case FailBlock():
                self._desk.release(message.block)
                raise message.error
        return None

    def _open(self, message: OpenBlock) -> Any:
        if message.block >= self._oldest + self._ahead and self._is_ranked_elsewhere(message.worker):
            return WAIT
        while self._read <= message.block:
            lists = list(islice(self._source, self._size))
            self._blocks[self._read] = _Block(lists=lists, shared=self._share(lists))
            self._read += 1
        block = self._blocks.get(message.block)
        if block is None or block.results is not None:
            return None  # its worker was lost between the results and the end of its task
        if block.worker is not None:
            self._count_loss(message.block, block)
        block.worker = message.worker
        return BlockWork(lists=block.shared, one_by_one=block.stalls >= _PATIENCE)

    def _is_ranked_elsewhere(self, worker: Any) -> bool:
        """Return whether another worker ranks the oldest block.

        If none does, or this worker did before Ray restarted it, the block may be next in the queue of this worker,
        which must not wait for it.
        """
        oldest = self._blocks.get(self._oldest)
        return oldest is not None and oldest.worker not in (None, worker)

    def _count_loss(self, number: int, block: _Block) -> None:
        in_flight = self._desk.release(number)
        self.lost_workers += 1
        self.lost_calls += in_flight
        block.stalls += 1
        _log.warning("A worker was lost; its %d calls in flight are made again", in_flight)
        if block.position is None:
            return
        losses = block.losses[block.position] = block.losses[block.position] + 1
        if losses > 2 * _PATIENCE:
            query = block.lists[block.position].query.id
            raise BackendError(
                f"Query {query!r} has ended its worker {losses} times, also without calls of the model",
                remedy="Omit this query, or run it with --engine local to see why",
            )
        block.position = None
