"""Functions that run the driver with ``Backend.generate``, for models in this process.

Batches are formed from the requests that are due, within blocks of consecutive queries and never across blocks. Which
requests share a batch depends only on the replies. A run that is resumed from its log therefore forms the same batches
as an uninterrupted run, and results that depend on the padding of a batch cannot differ.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice

from rerank.pipeline.driver import Driver, ListOptions
from rerank.pipeline.results import RankedList
from rerank.tasks import Backend, Request
from rerank.types import Ranking

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
