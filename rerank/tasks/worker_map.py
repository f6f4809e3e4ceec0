"""Functions that several processes apply to items: what callers hand to the workers of an engine.

A package that has much to compute, such as the embeddings of a corpus, takes a `WorkerMap` as an argument, so that it
need not know where the workers are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Protocol, TypeVar

from rerank.errors import BackendError

Item = TypeVar("Item")
Result = TypeVar("Result")
ItemIn = TypeVar("ItemIn", contravariant=True)
ResultOut = TypeVar("ResultOut", covariant=True)


class WorkerFunction(Protocol[ItemIn, ResultOut]):
    """A function of items. It is pickled, and each worker opens it once."""

    def open(self) -> Callable[[ItemIn], ResultOut]:
        """Return the function, after loading its model.

        Raises:
            RerankError: The model cannot be opened.
        """

    def describe(self, item: ItemIn) -> str:
        """Return a noun phrase for an item, for messages, such as ``query 'q1'``."""


class WorkerMap(Protocol):
    """Applies a function to items in several processes."""

    def __call__(
        self,
        function: WorkerFunction[Item, Result],
        rounds: Iterable[Iterable[Item]],
        *,
        count: int,
        together: int = 1,
    ) -> Iterator[Result]:
        """Yield the results in the order of the items.

        Args:
            function: The function.
            rounds: The items. A round is read lazily, and only after the results of all earlier rounds were yielded,
                so its items may depend on these.
            count: Upper bound on the number of times that a worker gets items.
            together: Number of items that a worker gets at once.

        Raises:
            RerankError: The function fails on an item, or the workers are lost; no result after it is yielded.
        """


def check_worker_model(found: Mapping[str, str], expected: Mapping[str, str]) -> None:
    """Check that a worker has opened the model of the process that asked for it.

    Raises:
        BackendError: It is another model.
    """
    if dict(found) != dict(expected):
        raise BackendError(
            f"A worker has opened another model: {dict(found)}",
            expected=str(dict(expected)),
            remedy="Use the same files on all machines, and give the data type",
        )
