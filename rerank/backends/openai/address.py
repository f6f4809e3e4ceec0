"""Where a server is, and which key it may see. Knows addresses and the environment; connects to nothing."""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass
from ipaddress import ip_address
from urllib.parse import urlsplit

from rerank.errors import UsageError, shorten

#: Environment variables that may hold the key; the first that is set counts, even if it is empty.
KEYS = ("RERANK_API_KEY", "OPENAI_API_KEY")
BASE_URL = "OPENAI_BASE_URL"
OPENAI = "https://api.openai.com/v1"


@dataclass(frozen=True, slots=True)
class Address:
    """A server's address.

    Attributes:
        url: The whole of it, as far as ``/v1``, without a slash at its end.
        name: Host, port and path: what tells this server from others.
        loopback: It is on this machine.
    """

    url: str
    name: str
    loopback: bool

    @property
    def private(self) -> bool:
        """Whether nobody in between can read what is sent: it is encrypted, or does not leave this machine."""
        return self.loopback or self.url.startswith("https://")

    @property
    def root(self) -> str:
        """The address without its path."""
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc}"

    @classmethod
    def parse(cls, text: str = "") -> Address:
        """Read what was given, else what the environment says, else OpenAI's own.

        Raises:
            UsageError: It is no address of a server, or holds a password or a key.
        """
        given = text or os.environ.get(BASE_URL, "") or OPENAI
        try:
            parts = urlsplit(given.strip().rstrip("/"))
            host, port = parts.hostname or "", parts.port
        except ValueError:
            parts, host, port = urlsplit(""), "", None
        if parts.username or parts.password or parts.query or parts.fragment:  # not shown: it may be a secret
            raise UsageError(
                "The address of the server has more than a host, a port and a path",
                expected="https://HOST/v1",
                remedy=f"Put the key into the environment variable {KEYS[-1]} and leave it out of --base-url",
            )
        if parts.scheme not in ("http", "https") or not host:
            raise UsageError(
                f"--base-url {shorten(given)}",
                expected="an address that starts with http:// or https://, such as http://localhost:8000/v1",
            )
        netloc = f"[{host}]" if ":" in host else host
        netloc += f":{port}" if port is not None else ""
        return cls(f"{parts.scheme}://{netloc}{parts.path}", f"{netloc}{parts.path}", _is_loopback(host))


def key_for(address: Address) -> str:
    """The key that this server may see; empty if there is none, or if others could read it on its way.

    Raises:
        UsageError: It cannot be sent as a header.
    """
    name = next((name for name in KEYS if name in os.environ), "")
    key = os.environ[name].strip() if name else ""
    if not (key.isascii() and key.isprintable() and " " not in key):  # else a library would show it in its complaint
        raise UsageError(
            f"The environment variable {name} holds characters that no key has", remedy="Copy the key again"
        )
    if not key or address.private:
        return key
    warnings.warn(
        f"The key is not sent to {address.url}: it would cross the network in plain text. Use https if it needs one",
        stacklevel=2,
    )
    return ""


def _is_loopback(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
