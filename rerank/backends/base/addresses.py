"""The addresses of servers, and the API keys that may be sent to them."""

from __future__ import annotations

import os
import re
import shlex
import warnings
from dataclasses import dataclass, replace
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

from rerank.errors import DataError, UnknownNameError, UsageError, ensure, error_repr
from rerank.io.settings_files import read_toml_file
from rerank.tasks import FileAddress


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerProvider:
    """The provider of a server, such as OpenAI: its address, and the environment variables for its key and address."""

    #: The provider's own address, to which a key may be sent even if the address was read from a file; empty if users
    #: run the servers.
    url: str = ""
    #: Variables that may contain the key. The first variable that is set is used, even if it is empty.
    keys: tuple[str, ...] = ("RERANK_API_KEY",)
    #: Variable that may contain another address; empty if there is none.
    url_variable: str = ""
    #: The option or variable with which users set an address, for messages.
    setting: str = "--base-url"
    #: Endpoints with which a pasted address may end, although requests add their own.
    endpoints: tuple[str, ...] = ()


OPENAI = ServerProvider(
    url="https://api.openai.com/v1",
    keys=("RERANK_API_KEY", "OPENAI_API_KEY"),
    url_variable="OPENAI_BASE_URL",
    endpoints=("/chat/completions", "/completions", "/responses"),
)
#: Ends of the names of Azure's hosts, and the first variables that may contain a key for them.
_AZURE_HOSTS = (".openai.azure.com", ".cognitiveservices.azure.com", ".services.ai.azure.com")
_AZURE_KEYS = ("RERANK_API_KEY", "AZURE_OPENAI_API_KEY")
#: The only query that an address may have, which Azure requires for all paths except ``/openai/v1``.
_AZURE_QUERY = re.compile(r"api-version=[\w.-]+")


@dataclass(frozen=True, slots=True)
class Address:
    """The address of a server."""

    url: str
    name: str
    loopback: bool
    file: str = ""
    provider: ServerProvider = OPENAI
    query: str = ""  # of all requests, such as ``api-version=2024-10-21``

    def with_query(self, url: str) -> str:
        return f"{url}{'&' if '?' in url else '?'}{self.query}" if self.query else url

    def key_header(self, key: str) -> dict[str, str]:
        if not key:
            return {}
        return {"api-key": key} if _AZURE_KEYS[1] in self.provider.keys else {"Authorization": f"Bearer {key}"}

    @property
    def private(self) -> bool:
        """Whether the connection is encrypted or does not leave this machine."""
        return self.loopback or self.url.startswith("https://")

    @property
    def root(self) -> str:
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc}"

    def endpoint_url(self, endpoint: str, version: str = "/v1") -> str:
        """Return the URL of an endpoint. The address may be a server's root, end with a version, or be the endpoint."""
        path = urlsplit(self.url).path
        if path.endswith(endpoint):
            return self.url
        return f"{self.url}{'' if path else version}{endpoint}"

    @classmethod
    def parse(cls, text: str = "", provider: ServerProvider = OPENAI) -> Address:
        """Parse an address. If it is empty, use the address in the environment or, if unset, the provider's own."""
        text = text or os.environ.get(provider.url_variable, "") or provider.url
        ensure(
            text, "The address of the server is missing", expected=f"{provider.setting}, such as http://localhost:8080"
        )
        file = text.file if isinstance(text, FileAddress) else ""
        try:
            parts = urlsplit(text.strip().rstrip("/"))
            host, port = parts.hostname or "", parts.port
        except ValueError:
            parts, host, port = urlsplit(""), "", None
        has_version = _AZURE_QUERY.fullmatch(parts.query) is not None
        if parts.username or parts.password or parts.fragment or (parts.query and not has_version):
            raise UsageError(  # without the address, which may contain a secret
                "The address of the server contains more than a host, a port and a path",
                expected="https://HOST/v1, or https://HOST/PATH?api-version=VERSION as Azure requires",
                remedy=f"Put the key into the environment variable {provider.keys[-1]}, not into {provider.setting}",
            )
        ensure(
            parts.scheme in ("http", "https") and host and text.strip().isprintable(),
            f"{provider.setting} is {error_repr(text)}",
            expected="an address that starts with http:// or https://, such as http://localhost:8000/v1",
        )
        path, query = parts.path.rstrip("/"), parts.query
        for endpoint in provider.endpoints:
            path = path.removesuffix(endpoint)
        if (is_azure_host := host.endswith(_AZURE_HOSTS)) and path in ("", "/openai") and provider.endpoints:
            path, query = "/openai/v1", ""  # the API that needs no name of a deployment in the path
        # A gateway of a user's own may look like Azure, but the key of Azure goes to no known other host.
        if is_azure_host or (has_version and host != "api.openai.com"):
            provider = replace(provider, keys=tuple(dict.fromkeys((*_AZURE_KEYS, *provider.keys))))
        name = (f"[{host}]" if ":" in host else host) + (f":{port}" if port is not None else "") + path
        return cls(f"{parts.scheme}://{name}", name, _is_loopback(host), file, provider, query)


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or host.endswith(".localhost") or ip_address(host).is_loopback
    except ValueError:
        return False


def api_key_for_server(address: Address) -> str:
    """Return the key for a server; empty if there is none, or if it would be sent unencrypted.

    Raises `UsageError` if the address was read from a file, and the user has not allowed keys to be sent there.
    """
    provider = address.provider
    name = next((name for name in provider.keys if name in os.environ), "")
    key = os.environ[name].strip() if name else ""
    ensure(  # checked here, since the HTTP library would show the key in its error message
        key.isascii() and key.isprintable() and " " not in key,
        f"The environment variable {name} contains characters that are not allowed in a key",
        remedy="Copy the key again",
    )
    if key and address.private and address.file and address.url not in _allowed_for_keys(provider):
        variable, url = provider.url_variable, address.with_query(address.url)
        in_environment = f"or set {variable} to this address if the command has no --base-url, " if variable else ""
        raise UsageError(
            f"{address.file!r} contains the server address {url}, to which the key in {name} would be sent",
            expected="an address that you set yourself, since the file may come from somebody else",
            remedy=f"If you trust this server, pass --base-url {shlex.quote(url)}, {in_environment}or add the address "
            f"to key_addresses in {key_configuration_file()}. If the server needs no key, set {provider.keys[0]} to an "
            "empty value",
        )
    if not key or address.private:
        return key
    warnings.warn(
        f"The key is not sent to {address.url}, since http is not encrypted. Use https if the server needs a key",
        stacklevel=2,
    )
    return ""


def key_configuration_file() -> Path:
    """Return the path of the user's configuration, whose list ``key_addresses`` names addresses that may get keys."""
    import platformdirs  # imported here, so that commands without a server start faster

    return platformdirs.user_config_path("listrank") / "config.toml"


def _allowed_for_keys(provider: ServerProvider) -> set[str]:
    """Return the addresses to which a key may always be sent: the provider's own, and those that the user lists."""
    path = key_configuration_file()
    settings = read_toml_file(path, "configuration") if path.is_file() else {}
    for name in settings.keys() - {"key_addresses"}:
        raise UnknownNameError(f"key in {str(path)!r}:", name, ["key_addresses"])
    listed = settings.get("key_addresses", [])
    ensure(
        isinstance(listed, list) and all(isinstance(text, str) for text in listed),
        f"key_addresses in {str(path)!r} is {error_repr(listed)}",
        expected='a list, as in ["https://HOST/v1"]',
        error=DataError,
    )
    named = (provider.url, os.environ.get(provider.url_variable, ""), *listed)
    return {Address.parse(text, provider).url for text in named if text}
