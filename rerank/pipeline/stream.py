"""Reranking of a stream of lists, with a bounded number of lists in memory."""

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any, Self

from rerank.errors import DataError
from rerank.judges.base import Judge
from rerank.pipeline.driver import Driver
from rerank.pipeline.network import rank_concurrently
from rerank.pipeline.passages import DocumentSplitter
from rerank.pipeline.results import RankedList, RerankOutcome
from rerank.strategies.base import Strategy
from rerank.tasks import AsyncBackend, Backend, Request
from rerank.tasks.backends import traits
from rerank.tasks.tracing import generate_traced
from rerank.types import Ranking

#: Number of batches that are rendered ahead and sorted, so that prompts of similar length share a batch.
LOOKAHEAD = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Flow:
    """Limits on how many lists are processed concurrently, and how many requests form a batch.

    For a model in this process, the flow decides which requests share a batch, and this affects the last bits of the
    scores. A run records its flow, and is resumed with the recorded flow.
    """

    #: Number of consecutive lists whose requests may share batches, for a model in this process; None for all.
    block: int | None
    in_flight: int  # number of lists that are open at a time, for a model behind a network
    batch_size: int
    reuse: bool = True  # whether a model in this process computes a prompt prefix that several requests share only once
    #: Maximum total number of characters of the prompts in a batch, for a model in this process; a longer prompt is the
    #: only one in its batch. None for no maximum, as in runs that did not record a maximum.
    batch_characters: int | None = None
    #: Maximum number of padded tokens of a batch, for a model in this process; None for no maximum.
    batch_tokens: int | None = None

    @classmethod
    def of(cls, backend: Backend, *, reuse: bool = True, share: int | None = None) -> Self:
        """Return the default flow for a backend: ``8 * batch_size`` lists per block, ``2 * batch_size`` in flight.

        A batch that is limited by tokens holds many short prompts of one list, or few long ones: 128 lists are enough.
        ``share`` is the number of lists per worker, which limits the blocks of a backend that schedules its requests.
        """
        size, tokens = backend.batch_size, traits(backend).batch_tokens
        block = 8 * size if tokens is None else min(8 * size, 128)
        if share is not None and traits(backend).schedules_requests:
            block = min(block, max(1, share))
        return cls(
            block=block,
            in_flight=2 * size,
            batch_size=size,
            reuse=reuse,
            batch_characters=traits(backend).batch_characters,
            batch_tokens=tokens,
        )

    @classmethod
    def unbounded(cls, backend: Backend) -> Self:
        """Return the flow for runs that did not record one: all lists form one block, and prefixes are not reused."""
        return cls(block=None, in_flight=2 * backend.batch_size, batch_size=backend.batch_size, reuse=False)

    @classmethod
    def from_json(cls, values: Any) -> Self:
        names = ("block", "in_flight", "batch_size", "batch_characters", "batch_tokens")
        sizes: dict[str, Any] = {name: values.get(name) for name in names} if isinstance(values, dict) else {}
        optional = (("block", None), ("batch_characters", None), ("batch_tokens", None))
        given = [size for name, size in sizes.items() if (name, size) not in optional]
        if not sizes or not all(isinstance(size, int) and size >= 1 for size in given):
            raise DataError(f"The recorded flow is {values!r}", expected=f"numbers from 1 for {', '.join(names)}")
        return cls(**sizes, reuse=bool(values.get("reuse", False)))

    def to_json(self) -> dict[str, Any]:
        """Return the values to record; maxima that are None are omitted, as in older records."""
        optional = ("batch_characters", "batch_tokens")
        return {name: value for name, value in asdict(self).items() if value is not None or name not in optional}

    def apply_to(self, backend: Any) -> None:
        """Let a backend form the batches of this flow."""
        # Plug-ins need not have the argument, since their batches have no maximum of tokens.
        tokens = {} if self.batch_tokens is None else {"tokens": self.batch_tokens}
        traits(backend).set_batching(self.batch_size, reuse=self.reuse, **tokens)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranker:
    """Everything that is needed to rerank a list, except the backend that answers the requests."""

    strategy: Strategy
    judge: Judge  # judge that makes the requests of a window and parses the replies
    #: Divides documents into passages for the judge; None to judge whole documents.
    passages: DocumentSplitter | None = None
    #: Number of documents to rerank; the others keep their input order. None for all.
    top_k: int | None = None
    scores_single: bool = False  # whether to judge the only document of a list for its score, as in `Driver`

    def driver(self, backend: Backend) -> Driver:
        """Return a driver without rankings; prompts for a model in this process are sorted by length."""
        if isinstance(backend, AsyncBackend):
            return self.arrival_driver()
        return Driver(
            self.strategy,
            self.judge,
            passages=self.passages,
            lookahead=LOOKAHEAD,
            sort_key=_negative_length,
            scores_single=self.scores_single,
        )

    def arrival_driver(self) -> Driver:
        """Return a driver without rankings that does not sort requests, so that no caller of a service is preferred."""
        return Driver(self.strategy, self.judge, passages=self.passages, scores_single=self.scores_single)


def _negative_length(request: Request) -> int:
    """Return a sort key that puts longer prompts first, so that insufficient memory is noticed at the start."""
    return -sum(len(message.content) for message in request.prompt)


def drive_ranking_stream(
    rankings: Iterable[Ranking], ranker: Ranker, backend: Backend, flow: Flow | None = None
) -> Iterator[RankedList]:
    """Rerank lists, which are read only shortly before they are processed; yield the results in the same order."""
    flow = flow or Flow.of(backend)
    if not isinstance(backend, AsyncBackend):
        return _rank_in_blocks(rankings, ranker, backend, flow)
    _ = backend.tokens.context_size  # may send a request to the server, which must not happen on the event loop
    numbered = rank_concurrently(
        rankings, lambda: ranker.driver(backend), backend, in_flight=flow.in_flight, top_k=ranker.top_k
    )
    return _in_order(numbered)


def _in_order(results: Iterable[tuple[int, RankedList]]) -> Iterator[RankedList]:
    """Yield numbered results in ascending order from 0; results that arrive early are kept until their turn."""
    early: dict[int, RankedList] = {}
    turn = 0
    for index, result in results:
        early[index] = result
        while turn in early:
            yield early.pop(turn)
            turn += 1


def _rank_in_blocks(rankings: Iterable[Ranking], ranker: Ranker, backend: Backend, flow: Flow) -> Iterator[RankedList]:
    """Rerank lists in blocks on a model in this process, and yield the results of each block when it is finished."""
    source = iter(rankings)
    while lists := list(islice(source, flow.block)):
        driver = ranker.driver(backend)
        keys = [driver.add(ranking, top_k=ranker.top_k) for ranking in lists]
        while tickets := driver.next_requests(flow.batch_size):
            replies = generate_traced(backend, [(ticket.request, ticket.ranking) for ticket in tickets])
            for ticket, reply in zip(tickets, replies, strict=True):
                driver.put(ticket, reply)
        finished = dict(driver.finished())
        for key in keys:
            result = finished.pop(key)
            if not isinstance(result, RankedList):
                raise result
            yield result


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
