"""Protocols for functions that worker processes apply to items, whatever engine (`rerank.engines`) runs the workers."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Protocol, TypeVar

from rerank.errors import BackendError
from rerank.tasks.backends import lacks_commit

Item = TypeVar("Item")
Result = TypeVar("Result")
ItemIn = TypeVar("ItemIn", contravariant=True)
ResultOut = TypeVar("ResultOut", covariant=True)


class WorkerFunction(Protocol[ItemIn, ResultOut]):
    """A function that workers apply to items, such as queries. It is pickled, and each worker opens it once."""

    def open(self) -> Callable[[ItemIn], ResultOut]:
        """Return the function, after loading its model, or raise `RerankError` if the model cannot be opened."""

    def describe(self, item: ItemIn) -> str:
        """Return a noun phrase for an item, for messages, such as ``query 'q1'``."""

    def give_up(self, item: ItemIn, reason: str) -> ResultOut:
        """Return a result in place of that of an item that has crashed its workers.

        Raises `BackendError`, with the ``reason`` of the crash, if the other results are of no use without this one.
        """


class WorkerMap(Protocol):
    """Protocol for applying a function to items in several processes."""

    def __call__(
        self, function: WorkerFunction[Item, Result], rounds: Iterable[Iterable[Item]], *, count: int, together: int = 1
    ) -> Iterator[Result]:
        """Yield the results in the order of the items; ``count`` is an upper bound on how often items are sent.

        A round is iterated lazily, and only after the results of all earlier rounds have been yielded, so its items may
        depend on these results.
        """


def check_worker_model(found: Mapping[str, str], expected: Mapping[str, str]) -> None:
    """Check that a worker has loaded the same model as the process that uses the worker."""
    if dict(found) != dict(expected) and not lacks_commit(expected, found):
        raise BackendError(
            f"A worker has loaded a different model: {dict(found)}",
            expected=str(dict(expected)),
            remedy="Use the same model files on all machines, and set the data type explicitly instead of to auto",
        )
