"""Assertions on errors by class and by the values that they name, so that a message can be reworded."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import pytest

E = TypeVar("E", bound=BaseException)


@contextmanager
def raises(error: type[E] | tuple[type[E], ...], *named: object) -> Iterator[pytest.ExceptionInfo[E]]:
    """Expect an error whose message names every given value.

    Args:
        error: The class, or several of which one will do.
        *named: Values that the message must contain, such as the offending value, an option or a file name.
    """
    with pytest.raises(error) as caught:
        yield caught
    message = str(caught.value)
    missing = [str(value) for value in named if str(value) not in message]
    assert not missing, f"the message does not name {missing}: {message}"
