"""Reranking of many lists, one after the other, with memory for a bounded number of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, Self

from rerank.errors import DataError
from rerank.judges.base import Judge
from rerank.pipeline.driver import Driver, ListOptions
from rerank.pipeline.local import LOOKAHEAD, longest_prompt_first, prompts_alike_together, rank_in_blocks
from rerank.pipeline.network import rank_concurrently
from rerank.pipeline.passages import DocumentSplitter
from rerank.pipeline.results import RankedList, RerankOutcome
from rerank.strategies.base import Strategy
from rerank.tasks import AsyncBackend, Backend
from rerank.types import Ranking


@dataclass(frozen=True, slots=True, kw_only=True)
class Flow:
    """How many lists and requests are worked on together.

    For a model in this process it decides which requests share a batch and so, in the last bits, the scores. A run
    records it and is resumed with the recorded one.

    Attributes:
        block: Number of consecutive lists whose requests share batches, for a model in this process; None for all.
        in_flight: Number of lists that are open at a time, for a model behind a network.
        batch_size: Number of requests per batch.
        reuse: Whether a model in this process computes prompt prefixes that several requests share once.
    """

    block: int | None
    in_flight: int
    batch_size: int
    reuse: bool = True

    @classmethod
    def of(cls, backend: Backend, *, reuse: bool = True) -> Self:
        """Return the default for a backend: eight batches per block, and twice as many lists as slots for requests."""
        size = backend.batch_size
        return cls(block=8 * size, in_flight=2 * size, batch_size=size, reuse=reuse)

    @classmethod
    def unbounded(cls, backend: Backend) -> Self:
        """Return the flow of runs that recorded none: all lists are one block, and prefixes are not reused."""
        return cls(block=None, in_flight=2 * backend.batch_size, batch_size=backend.batch_size, reuse=False)

    @classmethod
    def from_json(cls, values: Any) -> Self:
        """Read a recorded flow.

        Raises:
            DataError: A value is missing or no number of at least 1.
        """
        names = ("block", "in_flight", "batch_size")
        sizes: dict[str, Any] = {name: values.get(name) for name in names} if isinstance(values, dict) else {}
        given = [size for name, size in sizes.items() if (name, size) != ("block", None)]
        if not sizes or not all(isinstance(size, int) and size >= 1 for size in given):
            raise DataError(f"The recorded flow is {values!r}", expected=f"numbers from 1 for {', '.join(names)}")
        return cls(**sizes, reuse=bool(values.get("reuse", False)))

    def to_json(self) -> dict[str, Any]:
        """Return the values to record."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranker:
    """All that reranks a list, except for the backend that answers its requests.

    Attributes:
        strategy: Decides which windows are judged.
        judge: Makes the requests of a window and reads the replies.
        passages: How documents are divided for the judge; None shows them whole.
        top_k: Number of documents to rerank; the others keep their input order. None for all.
    """

    strategy: Strategy
    judge: Judge
    passages: DocumentSplitter | None = None
    top_k: int | None = None

    def driver(self, backend: Backend) -> Driver:
        """Return a driver without rankings; prompts for a model in this process are sorted by length or beginning."""
        if isinstance(backend, AsyncBackend):
            return Driver(self.strategy, self.judge, passages=self.passages)
        order = prompts_alike_together if getattr(backend, "caches_prefixes", False) else longest_prompt_first
        return Driver(self.strategy, self.judge, passages=self.passages, lookahead=LOOKAHEAD, sort_key=order)

    def arrival_driver(self) -> Driver:
        """Return a driver without rankings whose requests keep the order of arrival, for callers at any time."""
        return Driver(self.strategy, self.judge, passages=self.passages)


def rank_stream(
    rankings: Iterable[Ranking], ranker: Ranker, backend: Backend, flow: Flow | None = None
) -> Iterator[RankedList]:
    """Rerank lists and yield the results in the order of the lists.

    Args:
        rankings: The first-stage lists; only as many are read as are worked on.
        ranker: Strategy, judge and passages.
        backend: Answers the requests.
        flow: How many lists and requests are worked on together; None for the backend's default.

    Raises:
        RerankError: A list cannot be ranked, or the backend cannot answer at all.
    """
    flow = flow or Flow.of(backend)
    options = ListOptions(top_k=ranker.top_k)

    def make_driver() -> Driver:
        return ranker.driver(backend)

    if isinstance(backend, AsyncBackend):
        _ = backend.tokens.context_size  # a server may be asked for it, which must not happen on the event loop
        return in_list_order(
            rank_concurrently(rankings, make_driver, backend, in_flight=flow.in_flight, options=options)
        )
    return rank_in_blocks(rankings, make_driver, backend, block=flow.block, batch_size=flow.batch_size, options=options)


def in_list_order(results: Iterable[tuple[int, RankedList]]) -> Iterator[RankedList]:
    """Yield numbered results by their numbers, from 0; those that come early are kept until it is their turn."""
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
    """Rerank all lists as one block and return the results together; see `Ranker` for the arguments.

    Raises:
        RerankError: A list cannot be ranked, or the backend cannot answer at all.
    """
    ranker = Ranker(strategy=strategy, judge=judge, passages=passages, top_k=top_k)
    return RerankOutcome(tuple(rank_stream(rankings, ranker, backend, Flow.unbounded(backend))))
