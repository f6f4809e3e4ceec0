"""Detect the kind of a server, its models and their context size."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal

from rerank.backends.base.request_retries import RequestFailedError, RequestRejectedError
from rerank.backends.base.server_answers import ServerResponse, name_in_answer, object_in_answer, token_count_in_answer
from rerank.backends.base.server_connection import ServerConnection
from rerank.backends.base.server_replies import AttemptCount, ServerUnavailableError
from rerank.errors import BackendError

#: Kinds of servers with fields beyond OpenAI's interface; ``plain`` is any other server, including OpenAI and Ollama.
ServerKind = Literal["plain", "vllm", "sglang", "llamacpp"]
_KINDS: dict[str, ServerKind] = {"vllm": "vllm", "sglang": "sglang", "llamacpp": "llamacpp"}
#: Maximum number of model names in a message.
_SHOWN = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A server's description of itself.

    Attributes:
        kind: The kind of server, which determines the dialect.
        models: Names of the models on the server.
        context_size: Maximum number of tokens of prompt and reply together for the model in use; None if not stated.
    """

    kind: ServerKind = "plain"
    models: tuple[str, ...] = ()
    context_size: int | None = None


async def inspect_server(connection: ServerConnection, model: str) -> Server:
    """Request the server's list of models and derive its kind and context size from the list.

    A server without such a list, or with an invalid one, is treated as a plain server.
    """
    attempts = AttemptCount(connection)
    try:
        rows = await connection.ask("/models", read=_model_rows_of_server, on_attempt=attempts.begin)
    except RequestRejectedError:
        return Server()
    except RequestFailedError as error:
        if not attempts.is_silent and (connection.has_other_server is None or await connection.is_up()):
            return Server()
        remedy = f"Start the server at {connection.address.url}, or set another address with --base-url"
        raise ServerUnavailableError.after(error, attempts, remedy) from error
    owners = (name_in_answer(row.get("owned_by")) for row in rows)
    kind: ServerKind = next((_KINDS[owner] for owner in owners if owner in _KINDS), "plain")
    by_id = {name: row for row in rows if (name := name_in_answer(row.get("id")))}
    own = by_id.get(model, rows[0] if len(rows) == 1 else {})
    size = _context_size_of_server(own) or _context_size_of_server(by_id.get(name_in_answer(own.get("parent")), {}))
    if kind == "llamacpp" and size is None:
        size = await _slot_size_of_llama_server(connection)
    return Server(kind=kind, models=tuple(by_id), context_size=size)


def unknown_server_model_error(model: str, message: str, server: Server) -> BackendError:
    """Create the error for a model or a path that does not exist on a server.

    Args:
        model: Name of the requested model.
        message: The server's error message.
        server: The server, whose models are listed in the error.
    """
    if not server.models:
        remedy = "Check --base-url, which usually ends with /v1; then check the model's name"
        return BackendError(message, remedy=remedy)
    more = f" and {len(server.models) - _SHOWN} more" if len(server.models) > _SHOWN else ""
    return BackendError(
        f"Model {model!r}: {message}",
        expected=f"one of: {', '.join(server.models[:_SHOWN])}{more}",
        remedy="Use --model openai:NAME",
    )


def is_same_server_model(requested: str, answered: str) -> bool:
    """Return whether the model that answered is the requested model; true if ``answered`` is empty.

    Servers may add a date or a number to an alias, and may omit the organisation or add a folder or a gateway. Servers
    of a single file, such as llama.cpp's, state the name of the file whatever name was requested.

    >>> is_same_server_model("gpt-4o", "gpt-4o-2024-08-06"), is_same_server_model("gpt-4o", "gpt-4o-mini")
    (True, False)
    """
    names = [name.lower().rpartition("/")[2] for name in (requested, answered)]
    if not answered or names[1].endswith(".gguf"):
        return True
    return re.fullmatch(re.escape(names[0]) + r"([-@:.]\d[\d.-]*)?", names[1]) is not None


def _model_rows_of_server(answer: ServerResponse) -> list[dict[str, Any]]:
    if not answer.body:
        raise RequestFailedError(f"The list of models is not a JSON object: {answer.text}")
    rows = answer.body.get("data")
    return [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []


def _context_size_of_server(row: dict[str, Any]) -> int | None:
    """Return the context size in a model's description; None if the description states none.

    The field is ``max_model_len`` (vLLM, SGLang), ``context_length`` (some gateways) or ``meta.n_ctx`` (llama.cpp).
    """
    sizes = (row.get("max_model_len"), row.get("context_length"), object_in_answer(row.get("meta")).get("n_ctx"))
    return next(filter(None, map(token_count_in_answer, sizes)), None)


async def _slot_size_of_llama_server(connection: ServerConnection) -> int | None:
    """Return the context size per request of a llama.cpp server from ``/props``; None if it is not stated.

    Older versions of llama.cpp state the context size only there.
    """

    def read(answer: ServerResponse) -> int | None:
        settings = object_in_answer(answer.body.get("default_generation_settings"))
        return token_count_in_answer(settings.get("n_ctx")) or None

    try:
        return await connection.ask(f"{connection.address.root}/props", read=read)
    except (RequestFailedError, RequestRejectedError):
        return None
