"""Interruption of a call whose reply nobody waits for any more: its deadline has passed, or its callers have left.

Whoever calls a backend says when the call is unwanted; a backend that works in steps asks between them.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_is_unwanted: ContextVar[Callable[[], bool] | None] = ContextVar("is_unwanted", default=None)


class CallInterruptedError(Exception):
    """The call was interrupted between two of its steps; there is no reply."""


@contextmanager
def interruptible(is_unwanted: Callable[[], bool]) -> Iterator[None]:
    """Let calls of this thread inside the block raise `CallInterruptedError` once ``is_unwanted`` returns true."""
    token = _is_unwanted.set(is_unwanted)
    try:
        yield
    finally:
        _is_unwanted.reset(token)


def raise_if_interrupted() -> None:
    """Raise `CallInterruptedError` if the call in progress is unwanted. Backends call this before each step."""
    is_unwanted = _is_unwanted.get()
    if is_unwanted is not None and is_unwanted():
        raise CallInterruptedError
