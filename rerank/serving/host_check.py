"""ASGI middleware that protects a server that needs no keys from web pages of other sites, by checking host names."""

from __future__ import annotations

from collections.abc import Collection
from ipaddress import ip_address
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from rerank.serving.api_errors import ApiError, error_response

#: Paths that reveal only whether the server runs; load balancers request them under any host name.
_OPEN_PATHS = frozenset({"/health", "/ready"})


class HostCheckMiddleware:
    """Middleware that responds with 421 if the header Host or Origin names a host that is not this server.

    A page of another site can make its host name resolve to this machine (DNS rebinding). Its requests then carry that
    name, whereas requests to an IP address or to ``localhost`` come from pages and programs of the user.

    Args:
        app: The application.
        names: Further host names of the server; ``*`` allows all host names.
    """

    def __init__(self, app: ASGIApp, names: Collection[str] = ()) -> None:
        """Store the arguments."""
        self._app, self._names = app, {"localhost", *(name.lower().rstrip(".") for name in names)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on to the application, or respond with 421."""
        if scope["type"] != "http" or scope["path"] in _OPEN_PATHS or "*" in self._names:
            await self._app(scope, receive, send)
            return
        for header, value in scope["headers"]:
            if header in (b"host", b"origin") and not self._is_named(value.decode("latin-1")):
                name = header.decode().capitalize()
                error = ApiError(
                    421,
                    f"The header {name} is {value.decode('latin-1')[:100]!r}; expected an IP address or localhost. "
                    "To use this name, start the server with --allowed-host NAME or with keys",
                )
                await error_response(Request(scope), error)(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _is_named(self, value: str) -> bool:
        """Return whether the host in a header is an IP address or a name of this server."""
        try:  # an origin has a scheme, and Host has none
            host = (urlsplit(value if "://" in value else f"//{value}").hostname or "").rstrip(".")
            return host in self._names or bool(ip_address(host.partition("%")[0]))
        except ValueError:
            return False
