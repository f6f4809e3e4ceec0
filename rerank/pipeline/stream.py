"""Reranking of a stream of lists, with a bounded number of lists in memory.

Functions that run the driver with ``Backend.generate``, for models in this process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any, Self

from rerank.errors import DataError
from rerank.judges.base import Judge
from rerank.pipeline.driver import Driver, ListOptions
from rerank.pipeline.network import rank_concurrently
from rerank.pipeline.passages import DocumentSplitter
from rerank.pipeline.results import RankedList, RerankOutcome
from rerank.strategies.base import Strategy
from rerank.tasks import AsyncBackend, Backend, Request
from rerank.tasks.backends import traits
from rerank.types import Ranking


@dataclass(frozen=True, slots=True, kw_only=True)
class Flow:
    """Limits on how many lists are processed concurrently, and how many requests form a batch.

    For a model in this process, the flow decides which requests share a batch, and this affects the last bits of the
    scores. A run records its flow, and is resumed with the recorded flow.

    Attributes:
        block: Number of consecutive lists whose requests may share batches, for a model in this process; None for all.
        in_flight: Number of lists that are open at a time, for a model behind a network.
        batch_size: Maximum number of requests per batch.
        reuse: Whether a model in this process computes a prompt prefix that several requests share only once.
        batch_characters: Maximum total number of characters of the prompts in a batch, for a model in this process; a
            longer prompt is the only one in its batch. None for no maximum, as in runs that did not record a maximum.
    """

    block: int | None
    in_flight: int
    batch_size: int
    reuse: bool = True
    batch_characters: int | None = None

    @classmethod
    def of(cls, backend: Backend, *, reuse: bool = True) -> Self:
        """Return the default flow for a backend: ``8 * batch_size`` lists per block, ``2 * batch_size`` in flight."""
        size = backend.batch_size
        characters = traits(backend).batch_characters
        return cls(block=8 * size, in_flight=2 * size, batch_size=size, reuse=reuse, batch_characters=characters)

    @classmethod
    def unbounded(cls, backend: Backend) -> Self:
        """Return the flow for runs that did not record one: all lists form one block, and prefixes are not reused."""
        return cls(block=None, in_flight=2 * backend.batch_size, batch_size=backend.batch_size, reuse=False)

    @classmethod
    def from_json(cls, values: Any) -> Self:
        """Return the flow that `to_json` recorded."""
        names = ("block", "in_flight", "batch_size", "batch_characters")
        sizes: dict[str, Any] = {name: values.get(name) for name in names} if isinstance(values, dict) else {}
        optional = (("block", None), ("batch_characters", None))
        given = [size for name, size in sizes.items() if (name, size) not in optional]
        if not sizes or not all(isinstance(size, int) and size >= 1 for size in given):
            raise DataError(f"The recorded flow is {values!r}", expected=f"numbers from 1 for {', '.join(names)}")
        return cls(**sizes, reuse=bool(values.get("reuse", False)))

    def to_json(self) -> dict[str, Any]:
        """Return the values to record; ``batch_characters`` is omitted if it is None, as in older records."""
        unused = {"batch_characters"} if self.batch_characters is None else set()
        return {name: value for name, value in asdict(self).items() if name not in unused}


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranker:
    """Everything that is needed to rerank a list, except the backend that answers the requests.

    Attributes:
        strategy: Strategy that decides which windows are judged.
        judge: Judge that makes the requests of a window and parses the replies.
        passages: Divides documents into passages for the judge; None to judge whole documents.
        top_k: Number of documents to rerank; the others keep their input order. None for all.
        scores_single: Whether to judge the only document of a list for its score, as in `Driver`.
    """

    strategy: Strategy
    judge: Judge
    passages: DocumentSplitter | None = None
    top_k: int | None = None
    scores_single: bool = False

    def driver(self, backend: Backend) -> Driver:
        """Return a driver without rankings; prompts for a model in this process are sorted by length or prefix."""
        if isinstance(backend, AsyncBackend):
            return self.arrival_driver()
        order = driver_sort_key_by_prefix if traits(backend).caches_prefixes else driver_sort_key_by_length
        return Driver(
            self.strategy,
            self.judge,
            passages=self.passages,
            lookahead=LOOKAHEAD,
            sort_key=order,
            scores_single=self.scores_single,
        )

    def arrival_driver(self) -> Driver:
        """Return a driver without rankings that does not sort requests, so that no caller of a service is preferred."""
        return Driver(self.strategy, self.judge, passages=self.passages, scores_single=self.scores_single)


def drive_ranking_stream(
    rankings: Iterable[Ranking], ranker: Ranker, backend: Backend, flow: Flow | None = None
) -> Iterator[RankedList]:
    """Rerank lists and yield the results in the order of the lists.

    Args:
        rankings: The first-stage lists; they are read only shortly before they are processed.
        ranker: Strategy, judge and passages.
        backend: Backend that answers the requests.
        flow: Limits on concurrent lists and on batches; None for the backend's default.
    """
    flow = flow or Flow.of(backend)
    options = ListOptions(top_k=ranker.top_k)

    def make_driver() -> Driver:
        return ranker.driver(backend)

    if isinstance(backend, AsyncBackend):
        _ = backend.tokens.context_size  # may send a request to the server, which must not happen on the event loop
        return yield_driver_results_in_order(
            rank_concurrently(rankings, make_driver, backend, in_flight=flow.in_flight, options=options)
        )
    return rank_in_blocks(rankings, make_driver, backend, block=flow.block, batch_size=flow.batch_size, options=options)


def yield_driver_results_in_order(results: Iterable[tuple[int, RankedList]]) -> Iterator[RankedList]:
    """Yield numbered results in ascending order from 0; results that arrive early are kept until their turn."""
    early: dict[int, RankedList] = {}
    turn = 0
    for index, result in results:
        early[index] = result
        while turn in early:
            yield early.pop(turn)
            turn += 1


def rank_together(
    rankings: Iterable[Ranking],
    strategy: Strategy,
    judge: Judge,
    backend: Backend,
    *,
    top_k: int | None = None,
    passages: DocumentSplitter | None = None,
) -> RerankOutcome:
    """Rerank all lists as one block, and return all results at once; `Ranker` describes the arguments."""
    ranker = Ranker(strategy=strategy, judge=judge, passages=passages, top_k=top_k)
    return RerankOutcome(tuple(drive_ranking_stream(rankings, ranker, backend, Flow.unbounded(backend))))


#: Number of batches that are rendered ahead and sorted, so that prompts of similar length share a batch.
LOOKAHEAD = 16


def driver_sort_key_by_length(request: Request) -> int:
    """Return a sort key that puts longer prompts first, so that insufficient memory is noticed at the start."""
    return -sum(len(message.content) for message in request.prompt)


def driver_sort_key_by_prefix(request: Request) -> str:
    """Return a sort key that puts prompts with the same beginning together, for a backend that caches prefixes."""
    return "\n".join(message.content for message in request.prompt)


def answer_driver_in_batches(driver: Driver, backend: Backend, batch_size: int) -> None:
    """Answer the requests of a driver, batch by batch, until no ranking is open."""
    while tickets := driver.next_requests(batch_size):
        replies = backend.generate([ticket.request for ticket in tickets])
        for ticket, reply in zip(tickets, replies, strict=True):
            driver.put(ticket, reply)


def rank_in_blocks(
    rankings: Iterable[Ranking],
    make_driver: Callable[[], Driver],
    backend: Backend,
    *,
    block: int | None,
    batch_size: int,
    options: ListOptions | None = None,
) -> Iterator[RankedList]:
    """Rerank lists in blocks, and yield the results of each block, in input order, when it is finished.

    Args:
        rankings: The first-stage lists; one block is read at a time.
        make_driver: Function that returns a driver without rankings.
        backend: Backend that answers the requests.
        block: Number of lists per block; None for a single block.
        batch_size: Maximum number of requests per batch.
        options: Options for every list; None for the defaults.
    """
    source = iter(rankings)
    while lists := list(islice(source, block)):
        driver = make_driver()
        keys = [driver.add(ranking, options) for ranking in lists]
        answer_driver_in_batches(driver, backend, batch_size)
        finished = dict(driver.finished())
        for key in keys:
            result = finished.pop(key)
            if not isinstance(result, RankedList):
                raise result
            yield result
