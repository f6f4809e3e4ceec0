"""The address of a server, and the API key that may be sent to it."""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass
from ipaddress import ip_address
from urllib.parse import urlsplit

from rerank.errors import UsageError, error_repr

#: Environment variables that may contain the key; the first one that is set is used, even if it is empty.
KEYS = ("RERANK_API_KEY", "OPENAI_API_KEY")
BASE_URL = "OPENAI_BASE_URL"
OPENAI = "https://api.openai.com/v1"


@dataclass(frozen=True, slots=True)
class Address:
    """The address of a server.

    Attributes:
        url: The base URL, up to ``/v1``, without a trailing slash.
        name: Host, port and path, which identify the server.
        loopback: Whether the server is on this machine.
    """

    url: str
    name: str
    loopback: bool

    @property
    def private(self) -> bool:
        """Whether the connection is encrypted or does not leave this machine."""
        return self.loopback or self.url.startswith("https://")

    @property
    def root(self) -> str:
        """The address without its path."""
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc}"

    @classmethod
    def parse(cls, text: str = "") -> Address:
        """Parse an address. If it is empty, use the one in the environment or, without one, OpenAI's address.

        Raises:
            UsageError: The address is invalid, or contains a password or a key.
        """
        text = text or os.environ.get(BASE_URL, "") or OPENAI
        try:
            parts = urlsplit(text.strip().rstrip("/"))
            host, port = parts.hostname or "", parts.port
        except ValueError:
            parts, host, port = urlsplit(""), "", None
        if parts.username or parts.password or parts.query or parts.fragment:  # not shown: it may be a secret
            raise UsageError(
                "The address of the server contains more than a host, a port and a path",
                expected="https://HOST/v1",
                remedy=f"Put the key into the environment variable {KEYS[-1]}, not into --base-url",
            )
        if parts.scheme not in ("http", "https") or not host:
            raise UsageError(
                f"--base-url {error_repr(text)}",
                expected="an address that starts with http:// or https://, such as http://localhost:8000/v1",
            )
        netloc = f"[{host}]" if ":" in host else host
        netloc += f":{port}" if port is not None else ""
        return cls(f"{parts.scheme}://{netloc}{parts.path}", f"{netloc}{parts.path}", _is_loopback_server(host))


def api_key_for_server(address: Address) -> str:
    """Return the key for a server; empty if there is none, or if it would be sent unencrypted.

    Raises:
        UsageError: The key cannot be sent as a header.
    """
    name = next((name for name in KEYS if name in os.environ), "")
    key = os.environ[name].strip() if name else ""
    # Checked here, since the HTTP library would show the key in its error message.
    if not (key.isascii() and key.isprintable() and " " not in key):
        raise UsageError(
            f"The environment variable {name} contains characters that no key has", remedy="Copy the key again"
        )
    if not key or address.private:
        return key
    warnings.warn(
        f"The key is not sent to {address.url}, since http is not encrypted. Use https if the server needs a key",
        stacklevel=2,
    )
    return ""


def _is_loopback_server(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
