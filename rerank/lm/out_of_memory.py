"""Recognise errors that mean that memory ran out, and run batches that are as large as memory allows.

Torch is imported on use.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, TypeVar

from rerank.errors import BackendError

if TYPE_CHECKING:
    from rerank.lm.prefix_cache import PrefixCache

Item = TypeVar("Item")
Result = TypeVar("Result")

#: Parts of the messages of errors without a class of their own: of CPUs, CUDA, MPS, and of cuBLAS and cuDNN.
_MESSAGES = "can't allocate memory", "not enough memory", "out of memory", "Invalid buffer size", "STATUS_ALLOC_FAILED"
#: Number of seconds after the last failure for which a `BatchLimit` holds.
_DURATION = 600.0


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error means that memory ran out, in which case a smaller batch may succeed."""
    import torch

    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and any(message in str(error) for message in _MESSAGES)
    )


class BatchLimit:
    """The size up to which batches fit in memory, as learned from those that fitted and those that did not.

    The size of a batch is its number of rows times the length of its longest row. After a failure, the limit is the
    middle between the largest size that fitted and the smallest that did not, so batches are halved at first, until
    these sizes differ by at most an eighth. Rows as long as one that did not fit alone are not tried at all.

    Memory may have been short only for a moment, for example because of another process. Everything is therefore
    forgotten ten minutes after the last failure. The limit belongs to a model in this process and is not saved.
    """

    def __init__(self) -> None:
        self.reason = ""  # first line of the last error
        self._forget()

    def _forget(self) -> None:
        self._fitted, self._failed, self._alone, self._end = 0, math.inf, math.inf, math.inf

    @property
    def size(self) -> float:
        """The size of the largest batch to try; infinite if no batch has failed."""
        is_open = 8 * self._fitted < 7 * self._failed
        return (self._fitted + self._failed) / 2 if is_open else self._fitted

    def rows(self, lengths: Sequence[int]) -> int:
        """Return how many of the next rows, which have these lengths, to try at once; 0 if the first one cannot fit."""
        if time.monotonic() > self._end:
            self._forget()
        longest = 0
        for count, length in enumerate(lengths):
            longest = max(longest, length)
            if longest >= self._alone or (count and longest * (count + 1) > self.size):
                return count
        return len(lengths)

    def add_success(self, size: int) -> None:
        if size < self._failed:  # a single row may exceed the limit
            self._fitted = max(self._fitted, size)

    def add_failure(self, rows: int, length: int, reason: str) -> None:
        self.reason, self._end = reason, time.monotonic() + _DURATION
        if rows == 1:
            self._alone = min(self._alone, length)
            return
        self._failed = min(self._failed, rows * length)
        if self._fitted >= self._failed:  # less memory is left than before
            self._fitted = 0


def run_batches(
    items: Sequence[Item],
    run: Callable[[Sequence[Item]], Result],
    *,
    length: Callable[[Item], int],
    limit: BatchLimit,
    what: str,
    prefixes: PrefixCache | None = None,
) -> Iterator[tuple[Sequence[Item], Result | None]]:
    """Run a model on items in batches, which become smaller if memory runs out, and yield each batch with its result.

    An item that does not fit in a batch of its own is yielded with None, and ``limit.reason`` says why. Batches are
    consecutive, and ``what`` names the items in messages. A batch that fails while prefixes of earlier batches are
    cached is run once more without them before it becomes smaller, since other batches have other rounding errors.

    Raises:
        BackendError: The model failed for another reason.
    """
    import torch

    lengths, done = [length(item) for item in items], 0
    while done < len(items):
        rows = limit.rows(lengths[done:])
        end = done + max(1, rows)
        batch, longest = items[done:end], max(lengths[done:end])
        if not rows:
            yield batch, None
            done = end
            continue
        if longest > limit.size and prefixes is not None:
            prefixes.clear()  # a row that may not fit gets all the memory, since it is tried only once
        has_prefixes = prefixes is not None and not prefixes.is_empty
        try:
            result = run(batch)
        except (RuntimeError, ValueError, MemoryError, TypeError, LookupError, AttributeError) as error:
            if not is_out_of_memory(error):
                raise BackendError(
                    f"The model failed on {len(batch)} {what}: {' '.join(str(error).split())}"
                ) from error
            reason = next(iter(str(error).splitlines()), type(error).__name__)
        else:
            limit.add_success(len(batch) * longest)
            yield batch, result
            del result  # or it would take memory from the next batch
            done = end
            continue
        # This is outside the exception handler, since a traceback keeps the memory of the failed call alive.
        if prefixes is not None:
            prefixes.clear()
        torch.cuda.empty_cache()
        if torch.backends.mps.is_available():
            torch.mps.empty_cache()
        if not has_prefixes:
            limit.add_failure(len(batch), longest, reason)
