"""Bookkeeping of the blocks of items (such as lists to rerank) that workers process, of lost workers, and of results.

This module does not use Ray: `WorkBlocks` is a state machine that is given the messages of workers and returns the
answers.
"""

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Final, Generic, TypeVar

from rerank.errors import BackendError
from rerank.store.logging_backend import CallDesk
from rerank.tasks import Reply, Request


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenModel:
    """An announcement that a worker is about to open its model. The answer is None."""

    ticket: int


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenBlock:
    """A request of a worker for its next block. The answer is a `BlockWork`, or None if there are no more blocks."""

    #: Number of the worker's task. If the worker is lost, Ray repeats the task, and thus this message.
    ticket: int
    worker: Any = None  # Ray's handle of the worker, with which the worker can be stopped


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockWork:
    """A block of items that a worker has to process."""

    block: int  # number of the block, from 0
    items: Any  # Ray's reference to the items
    one_by_one: bool  # whether each item must be announced (`OpenItem`) and processed alone, because workers were lost
    attempt: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockMessage:
    """A message about one block; those of a worker that was considered lost, but is alive, are ignored."""

    block: int  # number of the block, from 0
    attempt: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenItem(BlockMessage):
    """An announcement that a worker starts to process one item, if items are processed one by one.

    The answer is a reason for giving the item up instead of processing it; empty if there is none. Workers
    that rerank lists ignore the reason, because their calls are refused one by one.
    """

    position: int  # position of the item in the block, from 0


@dataclass(frozen=True, slots=True, kw_only=True)
class BeginCalls(BlockMessage):
    """Requests that a worker is about to send to its model. The answer is a `BegunCalls`."""

    requests: Mapping[str, Request]


@dataclass(frozen=True, slots=True, kw_only=True)
class KeepCalls(BlockMessage):
    """New replies of the model, to be logged. The answer is None, sent when the replies are committed."""

    replies: Mapping[str, Reply]


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishBlock(BlockMessage):
    """The results of a block. The answer is None."""

    results: Sequence[Any]  # the results, in the order of the items of the block


@dataclass(frozen=True, slots=True, kw_only=True)
class Fail:
    """An error that ends the work. There is no answer."""

    block: int | None = None  # number of the worker's block; None if the worker has not received a block yet
    attempt: int = 0  # the attempt of the `BlockWork`; the error of a worker that was considered lost is ignored
    error: Exception


_log = logging.getLogger(__name__)
Item = TypeVar("Item")
Result = TypeVar("Result")

#: Number of workers that may be lost at a block without progress before its items are processed one by one, and number
#: of workers that may then be lost at an item before its calls are refused.
_PATIENCE = 2
#: The answer to a message that must wait for another message.
WAIT: Final = object()


@dataclass(kw_only=True)
class _Block(Generic[Item, Result]):
    """A block of items (such as lists to rerank) whose results have not been yielded yet."""

    items: Sequence[Item]
    shared: Any  # reference to the items that is sent to workers in place of the items
    worker: Any
    results: Sequence[Result] | None = None  # the results; None until the worker has sent them
    stalls: int = 0
    attempt: int = 0  # number of workers that were lost while they processed the block
    #: Position of the item that is being processed, if items are processed one by one; otherwise None.
    position: int | None = None
    #: Mapping from the position of an item to the number of workers that were lost while they processed this item
    #: alone.
    losses: Counter[int] = field(default_factory=Counter)
    #: `time.monotonic` value of the last answer to the worker; None while the worker waits.
    busy_since: float | None = None


class WorkBlocks(Generic[Item, Result]):
    """A state machine that distributes blocks of items to workers, and yields the results in the order of the items.

    The items come in one or several rounds. A block is read when a worker asks for it, and a round only after the
    results of all earlier rounds have been yielded. At most ``ahead`` blocks are open, counted from the oldest
    block without a result; a worker that asks for a further block waits. The desk looks up and logs the calls of
    the workers.
    """

    def __init__(
        self,
        rounds: Iterable[Iterable[Item]],
        *,
        size: int,
        ahead: int,
        share: Callable[[Sequence[Item]], Any] = lambda items: items,
        describe: Callable[[Item], str],
        desk: CallDesk | None = None,
    ) -> None:
        self._rounds = iter(rounds)
        self._round: Iterator[Item] = iter(())
        self._size, self._ahead, self._share, self._describe, self._desk = size, ahead, share, describe, desk
        self._blocks: dict[int, _Block[Item, Result]] = {}
        self._openings: Counter[int] = Counter()  # ticket -> number of times its model was opened for the next block
        self._tickets: dict[int, int] = {}  # ticket -> its last block
        self._oldest = self._read = 0
        self.lost_workers = self.lost_calls = 0  # calls that were in flight when their worker was lost

    def answer(self, message: OpenModel | OpenBlock | BlockMessage | Fail) -> Any:
        return self.answer_all({0: message}).get(0, WAIT)

    def answer_all(self, messages: Mapping[int, OpenModel | OpenBlock | BlockMessage | Fail]) -> dict[int, Any]:
        """Return the answers by the keys of their messages, without messages that must wait."""
        kept = [message for message in messages.values() if isinstance(message, KeepCalls)]
        if kept and self._desk:  # all in one transaction
            self._desk.keep([(message.block, message.replies) for message in kept if self._current_block(message)])
        for message in messages.values():  # before calls begin whose replies would be waited for
            if isinstance(message, Fail) and (message.block is None or self._current_block(message) is not None):
                if message.block is not None:
                    self._release_calls(message.block)
                raise message.error
        answers = {number: self._answer(message) for number, message in messages.items()}
        return {number: answer for number, answer in answers.items() if answer is not WAIT}

    def take_results(self) -> Iterator[Result]:
        """Yield results in the order of the items, up to the first block that is not finished."""
        while (block := self._blocks.get(self._oldest)) is not None and block.results is not None:
            del self._blocks[self._oldest]
            self._oldest += 1
            yield from block.results

    def has_calls_in_flight(self) -> bool:
        return self._desk is not None and self._desk.has_calls_in_flight()

    def read_to_end(self) -> None:
        """Read the remaining items, so that their source can check that the items have not changed."""
        for _ in self._round:
            pass

    def overdue_workers(self, seconds: float) -> list[Any]:
        """Return the workers that have sent no message for longer than ``seconds``, each only once."""
        latest = time.monotonic() - seconds
        overdue = [block for block in self._blocks.values() if (block.busy_since or latest) < latest]
        for block in overdue:
            block.busy_since = None
        return [block.worker for block in overdue]

    def _answer(self, message: OpenModel | OpenBlock | BlockMessage | Fail) -> Any:
        if isinstance(message, OpenModel):
            return self._count_opening(message.ticket)
        if isinstance(message, OpenBlock):
            return self._open(message)
        block = self._current_block(message)
        if block is None or isinstance(message, Fail):
            return None
        block.busy_since = None
        answer: Any = None
        match message:
            case OpenItem():
                block.position = message.position
                answer = self._refusal(block)
            case BeginCalls() if self._desk:
                answer = self._desk.begin(message.block, message.requests, refusal=self._refusal(block)) or WAIT
            case KeepCalls():
                block.stalls = 0
            case FinishBlock():
                block.results = message.results
                self._release_calls(message.block)
        if answer is not WAIT and block.results is None:
            block.busy_since = time.monotonic()
        return answer

    def _current_block(self, message: BlockMessage | Fail) -> _Block[Item, Result] | None:
        block = None if message.block is None else self._blocks.get(message.block)
        return None if block is None or block.results is not None or block.attempt != message.attempt else block

    def _release_calls(self, number: int) -> int:
        """Forget the calls in flight of a lost worker's block, and return their number."""
        return self._desk.release(number) if self._desk else 0

    def _refusal(self, block: _Block[Item, Result]) -> str:
        """Return why the item that is processed alone is given up (it ended several workers); empty to process it."""
        losses = 0 if block.position is None else block.losses[block.position]
        if block.position is None or losses < _PATIENCE:
            return ""
        return f"{losses} workers ended while they processed {self._describe(block.items[block.position])}"

    def _count_opening(self, ticket: int) -> None:
        """Count that a task opens its model; if it did so before without asking for a block, a worker was lost."""
        self.lost_workers += self._openings[ticket] > 0
        self._openings[ticket] += 1
        if self._openings[ticket] > 2 * _PATIENCE:
            raise BackendError(
                f"{2 * _PATIENCE} workers ended while they opened the model",
                expected="enough memory for one model per worker",
                remedy="Use fewer --workers, or --engine local to find the cause",
            )

    def _open(self, message: OpenBlock) -> Any:
        self._openings[message.ticket] = 0
        number = self._tickets.get(message.ticket, -1)
        block = self._blocks.get(number)
        if block is not None and block.results is None:
            self._count_loss(number, block)
            block.worker = message.worker
            block.attempt += 1
        elif self._read >= self._oldest + self._ahead or (items := self._next_items()) is None:
            return WAIT
        elif not items:
            return None
        else:
            number = self._tickets[message.ticket] = self._read
            block = self._blocks[number] = _Block(items=items, shared=self._share(items), worker=message.worker)
            self._read += 1
        block.busy_since = time.monotonic()
        one_by_one = block.stalls >= _PATIENCE
        return BlockWork(block=number, items=block.shared, one_by_one=one_by_one, attempt=block.attempt)

    def _next_items(self) -> list[Item] | None:
        """Return the items of the next block; empty if there are no more, None if they depend on unfinished blocks."""
        while not (items := list(islice(self._round, self._size))):
            if self._blocks:
                return None
            if (following := next(self._rounds, None)) is None:
                return []
            self._round = iter(following)
        return items

    def _count_loss(self, number: int, block: _Block[Item, Result]) -> None:
        in_flight = self._release_calls(number)
        self.lost_workers += 1
        self.lost_calls += in_flight
        block.stalls += 1
        _log.warning("A worker was lost; number of its calls in flight, which are repeated: %d", in_flight)
        if block.position is None:
            return
        losses = block.losses[block.position] = block.losses[block.position] + 1
        if losses > 2 * _PATIENCE:
            raise BackendError(
                f"Workers ended {losses} times while they processed {self._describe(block.items[block.position])}",
                remedy="Omit this item, or use --engine local to find the cause",
            )
        block.position = None
