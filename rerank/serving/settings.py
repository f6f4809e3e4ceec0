"""Settings and limits of the server."""

from __future__ import annotations

from dataclasses import dataclass

from rerank.errors import UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSettings:
    """Settings of the HTTP server: its name and host names, and limits for requests.

    Attributes:
        name: Name of the model in responses.
        max_body_bytes: Maximum size of a request body, in bytes.
        max_documents: Maximum number of documents per request.
        max_request_tokens: Maximum number of tokens per request, in the query and all documents together.
        max_waiting: Maximum number of requests that wait for their turn; further requests are refused with 429.
        max_active: Maximum number of rankings in progress at the same time.
        deadline: Seconds for a ranking if the request sets no deadline; None for no limit.
        allowed_hosts: Host names besides ``localhost`` that clients without keys may use; ``*`` allows all names.
        timeout: Seconds after which an unfinished request ends with 504, including its wait for a turn.
    """

    name: str = "listrank"
    max_body_bytes: int = 10 * 2**20
    max_documents: int = 1000
    max_request_tokens: int = 1_000_000
    max_waiting: int = 256
    max_active: int = 64
    deadline: float | None = None
    allowed_hosts: tuple[str, ...] = ()
    timeout: float = 600.0

    def __post_init__(self) -> None:
        """Check that all limits are at least their minimum."""
        for name in ("max_body_bytes", "max_documents", "max_request_tokens", "max_active"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} is {getattr(self, name)}", expected="at least 1")
        if self.max_waiting < 0:
            raise UsageError(f"max_waiting is {self.max_waiting}", expected="at least 0")
        if self.deadline is not None and not self.deadline > 0:
            raise UsageError(f"The deadline is {self.deadline} s", expected="more than 0 seconds")
        if not self.timeout > 0:
            raise UsageError(f"The timeout is {self.timeout} s", expected="more than 0 seconds")
