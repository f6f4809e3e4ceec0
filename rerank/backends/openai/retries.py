"""When a question is worth another try, and how long to wait before it. Imports tenacity; knows no connection."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import tenacity

#: Tries a request; fewer where each has taken the whole time limit, or where nobody has ever answered.
TRIES, SLOW_TRIES, FIRST_TRIES = 5, 2, 2
#: Seconds before the second try; doubled each time, up to the longest. A server may ask for more, up to a limit, too.
FIRST_WAIT, LONGEST_WAIT, LONGEST_ASKED = 1.0, 30.0, 120.0


class Failed(Exception):
    """No answer to one request, after all tries. The message is for the reader.

    Args:
        message: What happened.
        after: Seconds that the server asks to wait; None if it does not.
        tries: How many are worth it in all; 1 where another one cannot help.
    """

    def __init__(self, message: str, *, after: float | None = None, tries: int = TRIES) -> None:
        """Keep what decides about another try."""
        super().__init__(message)
        self.after, self.tries = after, tries


class Rejected(Exception):
    """The server understood and will not: this request is wrong for it, and would be each time.

    Args:
        message: What it says, with the status.
        status: The status.
        code: Its own name for the reason; empty if it gives none.
        field: The field of the request that it names; empty if it names none.
    """

    def __init__(self, message: str, *, status: int, code: str = "", field: str = "") -> None:
        """Keep the parts."""
        super().__init__(message)
        self.status, self.code, self.field = status, code, field


def retrying(sleep: Callable[[float], Awaitable[None]]) -> tenacity.AsyncRetrying:
    """Tries again after every `Failed`, as often as that is worth it; the last one is raised.

    Args:
        sleep: How to wait.
    """
    return tenacity.AsyncRetrying(
        retry=tenacity.retry_if_exception_type(Failed),
        stop=_enough,
        wait=_wait,
        sleep=sleep,
        reraise=True,
    )


def seconds_of(value: str) -> float | None:
    """What Retry-After asks for: seconds, or an HTTP date (RFC 9110, section 10.2.3); None if it is neither."""
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        when = parsedate_to_datetime(value)
    except ValueError:
        return None
    when = when if when.tzinfo else when.replace(tzinfo=UTC)
    return max(0.0, (when - datetime.now(UTC)).total_seconds())


def _wait(state: tenacity.RetryCallState) -> float:
    """Seconds to the next try: as the server asks, else doubled each time; and some more, so that not all come back."""
    error = state.outcome.exception() if state.outcome else None
    after = error.after if isinstance(error, Failed) else None
    base = min(LONGEST_WAIT, FIRST_WAIT * 2.0 ** (state.attempt_number - 1)) if after is None else after
    return base + random.uniform(0, FIRST_WAIT)


def _enough(state: tenacity.RetryCallState) -> bool:
    error = state.outcome.exception() if state.outcome else None
    return not isinstance(error, Failed) or state.attempt_number >= error.tries
