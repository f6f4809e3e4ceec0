"""Errors of single requests to a server, and the rules for retrying them."""

from __future__ import annotations

import math
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import tenacity

#: Maximum attempts per request: in general, after timeouts, and if the server has never answered.
TRIES, SLOW_TRIES, FIRST_TRIES = 5, 2, 2
#: Seconds: the wait before the second attempt, which doubles with every further attempt; the longest such wait; the
#: longest accepted Retry-After.
FIRST_WAIT, LONGEST_WAIT, LONGEST_ASKED = 1.0, 30.0, 120.0


class RequestFailedError(Exception):
    """Raised if a request got no valid reply; the request may be retried.

    Args:
        message: Error message for the user.
        after: Seconds to wait before the next attempt, if the server states them; otherwise None.
        tries: Maximum number of attempts; 1 if another attempt cannot help.
    """

    def __init__(self, message: str, *, after: float | None = None, tries: int = TRIES) -> None:
        """Store the values that determine whether and when to retry."""
        super().__init__(message)
        self.after, self.tries = after, tries


class RequestRejectedError(Exception):
    """Raised if the server refused a request as invalid. Retrying it cannot help.

    Args:
        message: Error message with the server's own message and status.
        status: The HTTP status.
        code: The server's error code; empty if it states none.
        field: Name of the invalid field of the request; empty if the server names none.
    """

    def __init__(self, message: str, *, status: int, code: str = "", field: str = "") -> None:
        """Store the parts of the server's answer."""
        super().__init__(message)
        self.status, self.code, self.field = status, code, field


def make_retrying_sender(
    sleep: Callable[[float], Awaitable[None]],
    retries: int | None = None,
    *,
    gives_up: Callable[[], bool] = lambda: False,
) -> tenacity.AsyncRetrying:
    """Return a function that calls a coroutine function, and calls it again after each `RequestFailedError`.

    If no further attempt is allowed, the last error is raised.

    Args:
        sleep: Function that waits for a number of seconds.
        retries: Maximum number of attempts after the first; None for the number that the error allows. An error for
            which another attempt cannot help is never retried.
        gives_up: Function, called after every failure, that returns whether to raise the error although another attempt
            is allowed.
    """

    def should_stop(state: tenacity.RetryCallState) -> bool:
        error = state.outcome.exception() if state.outcome else None
        if not isinstance(error, RequestFailedError) or error.tries == 1 or gives_up():
            return True
        return state.attempt_number >= (error.tries if retries is None else 1 + retries)

    return tenacity.AsyncRetrying(
        retry=tenacity.retry_if_exception_type(RequestFailedError),
        stop=should_stop,
        wait=_seconds_to_next_attempt,
        sleep=sleep,
        reraise=True,
    )


def parse_retry_after(value: str) -> float | None:
    """Parse a Retry-After header, a number of seconds or an HTTP date (RFC 9110, section 10.2.3), and return seconds.

    None is returned if the header is invalid.
    """
    with suppress(ValueError):
        return None if math.isnan(seconds := float(value)) else max(0.0, seconds)
    try:
        when = parsedate_to_datetime(value)
        when = when if when.tzinfo else when.replace(tzinfo=UTC)
        return max(0.0, (when - datetime.now(UTC)).total_seconds())
    except (ValueError, OverflowError):  # OverflowError: such as the year 99999999999
        return None


def _seconds_to_next_attempt(state: tenacity.RetryCallState) -> float:
    """Return the seconds to wait before the next attempt, with random jitter so that retries are spread over time."""
    error = state.outcome.exception() if state.outcome else None
    after = error.after if isinstance(error, RequestFailedError) else None
    base = min(LONGEST_WAIT, FIRST_WAIT * 2.0 ** (state.attempt_number - 1)) if after is None else after
    return base + random.uniform(0, FIRST_WAIT)
