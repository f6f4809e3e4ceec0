"""Find out the kind of a server, its models and their context size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from rerank.backends.openai.http import ServerConnection
from rerank.backends.openai.retries import RequestFailedError, RequestRejectedError
from rerank.errors import BackendError

#: Servers with fields beyond OpenAI's interface; ``plain`` is every other server, including OpenAI and Ollama.
ServerKind = Literal["plain", "vllm", "sglang", "llamacpp"]
_KINDS: dict[str, ServerKind] = {"vllm": "vllm", "sglang": "sglang", "llamacpp": "llamacpp"}
#: Maximum number of model names in a message.
_SHOWN = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A server's description of itself.

    Attributes:
        kind: The kind of server, which determines the dialect.
        models: Names of its models.
        context_size: Maximum number of tokens of prompt and reply together for the model in use; None if not stated.
    """

    kind: ServerKind = "plain"
    models: tuple[str, ...] = ()
    context_size: int | None = None


async def inspect_server(connection: ServerConnection, model: str) -> Server:
    """Request the list of models and derive kind and context size from it.

    A server without such a list, or with an invalid one, is treated as a plain server.

    Raises:
        BackendError: The server does not answer, or requires a key.
    """
    contacts = connection.contacts
    try:
        rows = await connection.ask("/models", read=_model_rows_of_server)
    except RequestRejectedError:
        return Server()
    except RequestFailedError as error:
        if connection.contacts > contacts:
            return Server()
        raise BackendError(
            str(error), remedy=f"Start the server at {connection.address.url}, or set another address with --base-url"
        ) from error
    kind: ServerKind = next((_KINDS[owner] for row in rows if (owner := str(row.get("owned_by"))) in _KINDS), "plain")
    by_id = {str(row.get("id")): row for row in rows}
    own = by_id.get(model, rows[0] if len(rows) == 1 else {})
    size = _context_size_of_server(own) or _context_size_of_server(by_id.get(str(own.get("parent")), {}))
    if kind == "llamacpp" and size is None:
        size = await _slot_size_of_llama_server(connection)
    return Server(kind=kind, models=tuple(by_id), context_size=size)


def unknown_server_model_error(model: str, message: str, server: Server) -> BackendError:
    """Return the error for a model, or a path, that a server does not have."""
    if not server.models:
        remedy = "Check --base-url, which usually ends with /v1; then check the model's name"
        return BackendError(message, remedy=remedy)
    more = f" and {len(server.models) - _SHOWN} more" if len(server.models) > _SHOWN else ""
    return BackendError(
        f"Model {model!r}: {message}",
        expected=f"one of: {', '.join(server.models[:_SHOWN])}{more}",
        remedy="Use --model openai:NAME",
    )


def _model_rows_of_server(body: dict[str, Any]) -> list[dict[str, Any]]:
    rows = body.get("data")
    return [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []


def _context_size_of_server(row: dict[str, Any]) -> int | None:
    """Return ``max_model_len`` (vLLM, SGLang), ``context_length`` (some gateways) or ``meta.n_ctx`` (llama.cpp)."""
    meta = row.get("meta")
    inner = meta if isinstance(meta, dict) else {}
    sizes = (row.get("max_model_len"), row.get("context_length"), inner.get("n_ctx"))
    return next((size for size in sizes if isinstance(size, int) and size > 0), None)


async def _slot_size_of_llama_server(connection: ServerConnection) -> int | None:
    """Return the context size per request of a llama.cpp server; older versions state it only in ``/props``."""

    def read(body: dict[str, Any]) -> int | None:
        settings = body.get("default_generation_settings")
        size = settings.get("n_ctx") if isinstance(settings, dict) else None
        return size if isinstance(size, int) and size > 0 else None

    try:
        return await connection.ask(f"{connection.address.root}/props", read=read)
    except (RequestFailedError, RequestRejectedError):
        return None
