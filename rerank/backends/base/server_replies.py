"""Error replies and exceptions for requests that a server did not answer."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

from rerank.backends.base.request_retries import RequestFailedError, RequestRejectedError
from rerank.errors import BackendError
from rerank.tasks import Reply

if TYPE_CHECKING:  # importing httpx2 takes 0.1 s, so commands without a server avoid it
    from rerank.backends.base.server_connection import ServerConnection

#: Error codes of content filters.
_FILTERED = ("content_filter", "content_policy_violation")


class ServerUnavailableError(BackendError):
    """Raised if a server does not answer a request that another server could answer.

    Attributes:
        attempts: Number of attempts that were made.
        tries: Maximum number of attempts per request for this kind of failure.
        is_silent: Whether there was no connection to the server.
    """

    attempts = 0
    tries = 1
    is_silent = False

    @classmethod
    def after(cls, error: RequestFailedError, attempts: AttemptCount, remedy: str) -> Self:
        """Create the exception for a failed request.

        Args:
            error: The error of the last attempt.
            attempts: Counter of the attempts of the request.
            remedy: What the user can do, for the message.
        """
        failed = cls(str(error), remedy=remedy)
        failed.attempts, failed.tries, failed.is_silent = attempts.attempts, error.tries, attempts.is_silent
        return failed


@dataclass(slots=True)
class AttemptCount:
    """A counter of the attempts of one request to a server.

    Attributes:
        connection: The connections to the server.
        attempts: Number of attempts.
        contacts: Value of ``connection.contacts`` when this request began.
    """

    connection: ServerConnection
    attempts: int = 0
    contacts: int = field(init=False)

    def __post_init__(self) -> None:
        """Store the current number of contacts with the server."""
        self.contacts = self.connection.contacts

    @property
    def is_silent(self) -> bool:
        """Whether the server has responded to no request at all since this request began."""
        return self.connection.contacts == self.contacts

    def begin(self) -> None:
        """Count one more attempt."""
        self.attempts += 1

    @property
    def retries(self) -> int:
        """Number of attempts after the first."""
        return max(0, self.attempts - 1)


def reply_of_failed_request(
    error: RequestFailedError | RequestRejectedError, *, model: str, attempts: AttemptCount
) -> Reply:
    """Return the reply to a request that failed or was rejected.

    Args:
        error: The error after the last attempt.
        model: Name of the model on the server, for the message.
        attempts: Counter of the attempts of the request.

    Raises:
        ServerUnavailableError: There is no connection to the server, or the request failed and there are other servers.
        BackendError: The model or the path does not exist on the server, so no other request can be answered either.
    """
    if isinstance(error, RequestFailedError):
        if attempts.is_silent or attempts.connection.has_other_server is not None:
            remedy = "Check the address and the network, or start the server; --resume keeps committed calls"
            raise ServerUnavailableError.after(error, attempts, remedy) from error
        return Reply(finish="error", error=str(error))
    if error.status in (404, 405):
        raise BackendError(
            f"Model {model!r}: {error}", remedy="Check the model's name, and --base-url if it is set"
        ) from error
    return Reply(finish="refused") if error.code in _FILTERED else Reply(finish="error", error=str(error))
