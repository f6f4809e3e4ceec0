"""Settings and limits of the server, and the keys of its clients."""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rerank.errors import DataError, MissingResourceError, ensure

#: Environment variable that contains the keys, separated by commas or whitespace.
KEYS_VARIABLE = "RERANK_SERVER_KEYS"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSettings:
    """Settings of the HTTP server: its name and host names, and limits for requests."""

    name: str = "listrank"
    max_body_bytes: int = 10 * 2**20  #: Maximum size of a request body, in bytes.
    max_documents: int = 1000  #: Maximum number of documents per request.
    #: Maximum number of tokens per request, in the query and all documents together.
    max_request_tokens: int = 1_000_000
    max_windows: int = 20_000  #: Maximum number of windows that the method may judge for a request.
    #: Maximum number of requests that wait for their turn; further requests are refused with 429.
    max_waiting: int = 256
    max_active: int = 64  #: Maximum number of rankings in progress at the same time.
    deadline: float | None = None  #: Seconds for a ranking if the request sets no deadline; None for no limit.
    #: Host names besides ``localhost`` that clients without keys may use; ``*`` allows all names.
    allowed_hosts: tuple[str, ...] = ()
    #: Hosts from which pictures in requests are fetched; from other hosts, and by default, none is.
    image_hosts: tuple[str, ...] = ()
    max_image_pixels: int = 40_000_000  #: Maximum number of pixels of a picture in a request.
    timeout: float = 600.0  #: Seconds after which an unfinished request ends with 504, including its wait for a turn.

    def __post_init__(self) -> None:
        counts = ("max_body_bytes", "max_documents", "max_request_tokens", "max_windows", "max_active")
        for name in (*counts, "max_image_pixels"):
            ensure(getattr(self, name) >= 1, f"{name} is {getattr(self, name)}", expected="at least 1")
        ensure(self.max_waiting >= 0, f"max_waiting is {self.max_waiting}", expected="at least 0")
        ensure(
            self.deadline is None or self.deadline > 0,
            f"The deadline is {self.deadline} s",
            expected="more than 0 seconds",
        )
        ensure(self.timeout > 0, f"The timeout is {self.timeout} s", expected="more than 0 seconds")


@dataclass(frozen=True, slots=True, repr=False)
class ServerKeys:
    """The bearer keys that clients may use; if there are none, everybody may use the server."""

    digests: Sequence[bytes] = ()  #: SHA-256 digest of each key, so that the keys themselves are not stored.

    @classmethod
    def load(cls, file: str | Path | None = None) -> ServerKeys:
        """Read the keys from a file with one key per line or, if ``file`` is None, from the environment."""
        if file is None:
            given = os.environ.get(KEYS_VARIABLE)
            keys = (given or "").replace(",", " ").split()
            ensure(
                keys or given is None,
                f"{KEYS_VARIABLE} contains no key",
                expected="keys separated by commas",
                remedy="Unset the variable if everybody may use the server",
                error=DataError,
            )
            return cls.from_keys(keys)
        try:
            keys = Path(file).read_text(encoding="utf-8").split()
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
            raise MissingResourceError(
                f"Cannot read the keys in {str(file)!r}: {reason}", expected="a file with one key per line"
            ) from error
        ensure(keys, f"The file {str(file)!r} contains no key", expected="one key per line", error=DataError)
        return cls.from_keys(keys)

    @classmethod
    def from_keys(cls, keys: Sequence[str]) -> ServerKeys:
        return cls(tuple(hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest() for key in keys))

    def client(self, authorization: str, address: str) -> str | None:
        """Return the client's name in the queue (its address without keys), or None if its key is missing or wrong."""
        if not self.digests:
            return address
        scheme, _, key = authorization.partition(" ")
        # Headers are decoded as Latin-1; most clients send keys that are not ASCII as UTF-8, and some as Latin-1.
        sent = {key.strip().encode("latin-1", "replace"), key.strip().encode("utf-8", "surrogateescape")}
        hashed = [hashlib.sha256(form).digest() for form in sent]
        matches = [form for form in hashed for digest in self.digests if hmac.compare_digest(form, digest)]
        return matches[0].hex()[:8] if scheme.lower() == "bearer" and matches else None
