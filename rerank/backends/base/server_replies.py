"""Replies to requests that a server did not answer."""

from __future__ import annotations

from dataclasses import dataclass

from rerank.backends.base.request_retries import RequestFailedError, RequestRejectedError
from rerank.errors import BackendError
from rerank.tasks import Reply

#: Error codes of content filters.
_FILTERED = ("content_filter", "content_policy_violation")


@dataclass(slots=True)
class AttemptCount:
    """The number of attempts of a request."""

    attempts: int = 0

    def begin(self) -> None:
        """Count one more attempt."""
        self.attempts += 1

    @property
    def retries(self) -> int:
        """Number of attempts after the first."""
        return max(0, self.attempts - 1)


def reply_of_failed_request(error: RequestFailedError | RequestRejectedError, *, model: str, is_silent: bool) -> Reply:
    """Return the reply to a request that failed or was rejected.

    Args:
        error: The error after the last attempt.
        model: The model's name on the server, for the message.
        is_silent: Whether no request has reached the server in the meantime.

    Raises:
        BackendError: No other request can be answered either: there is no connection, or no such model or path.
    """
    if isinstance(error, RequestFailedError):
        if is_silent:
            remedy = "Check the address and the network, or start the server; --resume keeps committed calls"
            raise BackendError(str(error), remedy=remedy) from error
        return Reply(finish="error", error=str(error))
    if error.status in (404, 405):
        raise BackendError(
            f"Model {model!r}: {error}", remedy="Check the model's name, and --base-url if it is set"
        ) from error
    return Reply(finish="refused") if error.code in _FILTERED else Reply(finish="error", error=str(error))
