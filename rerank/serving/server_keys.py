"""Bearer keys of the server's clients."""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rerank.errors import DataError, MissingResourceError

#: Environment variable that contains the keys, separated by commas or whitespace.
KEYS_VARIABLE = "RERANK_SERVER_KEYS"


@dataclass(frozen=True, slots=True, repr=False)
class ServerKeys:
    """The keys that clients may use; if there are none, everybody may use the server.

    Attributes:
        digests: SHA-256 digest of each key, so that the keys themselves are not stored.
    """

    digests: Sequence[bytes] = ()

    @classmethod
    def load(cls, file: str | Path | None = None) -> ServerKeys:
        """Read the keys from a file with one key per line or, if ``file`` is None, from the environment."""
        if file is None:
            given = os.environ.get(KEYS_VARIABLE, "")
            keys = given.replace(",", " ").split()
            if given and not keys:
                raise DataError(f"{KEYS_VARIABLE} contains no key", expected="keys separated by commas")
            return cls.from_keys(keys)
        try:
            keys = Path(file).read_text(encoding="utf-8").split()
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
            raise MissingResourceError(
                f"Cannot read the keys in {str(file)!r}: {reason}", expected="a file with one key per line"
            ) from error
        if not keys:
            raise DataError(f"The file {str(file)!r} contains no key", expected="one key per line")
        return cls.from_keys(keys)

    @classmethod
    def from_keys(cls, keys: Sequence[str]) -> ServerKeys:
        """Return an instance that contains the digests of the given keys."""
        return cls(tuple(hashlib.sha256(key.encode()).digest() for key in keys))

    def client(self, authorization: str, address: str) -> str | None:
        """Return a name that distinguishes the client in the queue, or None if its key is missing or wrong.

        All keys are compared in constant time.

        Args:
            authorization: The header ``Authorization`` of the request.
            address: The client's address, which is its name if the server has no keys.
        """
        if not self.digests:
            return address
        scheme, _, key = authorization.partition(" ")
        given = hashlib.sha256(key.strip().encode("utf-8", "surrogateescape")).digest()
        matches = [hmac.compare_digest(given, digest) for digest in self.digests]
        return given.hex()[:8] if scheme.lower() == "bearer" and any(matches) else None
