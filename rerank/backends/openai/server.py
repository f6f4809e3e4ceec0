"""What a server says of itself: whose it is, its models, how long their context is. Knows no request but that."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from rerank.backends.openai.http import Exchange
from rerank.backends.openai.retries import Failed, Rejected
from rerank.errors import BackendError

#: Servers that understand more than OpenAI's own interface; ``plain`` is every other one, OpenAI and Ollama included.
Kind = Literal["plain", "vllm", "sglang", "llamacpp"]
_KINDS: dict[str, Kind] = {"vllm": "vllm", "sglang": "sglang", "llamacpp": "llamacpp"}
#: Names of models that a message lists.
_SHOWN = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A server as it describes itself.

    Attributes:
        kind: Whose dialect it speaks.
        models: What it lists.
        context_size: Tokens of prompt and reply together, for the model that was asked about; None if it is not said.
    """

    kind: Kind = "plain"
    models: tuple[str, ...] = ()
    context_size: int | None = None


async def look(exchange: Exchange, model: str) -> Server:
    """Ask a server for its models, and take its kind and context from what it answers.

    One that has no such list, or an odd one, is taken for a plain server.

    Raises:
        BackendError: Nobody answers, or a key is wanted.
    """
    try:
        rows = await exchange.ask("/models", read=_rows)
    except Rejected:
        return Server()
    except Failed as error:
        if exchange.reached:
            return Server()
        raise BackendError(
            str(error), remedy=f"Start the server at {exchange.address.url}, or name another one with --base-url"
        ) from error
    kind: Kind = next((_KINDS[owner] for row in rows if (owner := str(row.get("owned_by"))) in _KINDS), "plain")
    by_id = {str(row.get("id")): row for row in rows}
    own = by_id.get(model, rows[0] if len(rows) == 1 else {})
    size = _context(own) or _context(by_id.get(str(own.get("parent")), {}))
    if kind == "llamacpp" and size is None:
        size = await _slot(exchange)
    return Server(kind=kind, models=tuple(by_id), context_size=size)


def unknown_model(model: str, said: str, server: Server) -> BackendError:
    """The error for a model, or a path, that a server does not have."""
    if not server.models:
        remedy = "Check --base-url: most servers want /v1 at its end; then check the model's name"
        return BackendError(said, remedy=remedy)
    more = f" and {len(server.models) - _SHOWN} more" if len(server.models) > _SHOWN else ""
    return BackendError(
        f"Model {model!r}: {said}",
        expected=f"one of: {', '.join(server.models[:_SHOWN])}{more}",
        remedy="Name it as --model openai:NAME",
    )


def _rows(body: dict[str, Any]) -> list[dict[str, Any]]:
    rows = body.get("data")
    return [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []


def _context(row: dict[str, Any]) -> int | None:
    """``max_model_len`` of vLLM and SGLang, ``meta.n_ctx`` of llama.cpp, ``context_length`` of some gateways."""
    meta = row.get("meta")
    inner = meta if isinstance(meta, dict) else {}
    found = (row.get("max_model_len"), row.get("context_length"), inner.get("n_ctx"))
    return next((size for size in found if isinstance(size, int) and size > 0), None)


async def _slot(exchange: Exchange) -> int | None:
    """What each request to a llama.cpp server gets of its context; older ones say so here only."""

    def read(body: dict[str, Any]) -> int | None:
        settings = body.get("default_generation_settings")
        size = settings.get("n_ctx") if isinstance(settings, dict) else None
        return size if isinstance(size, int) and size > 0 else None

    try:
        return await exchange.ask(f"{exchange.address.root}/props", read=read)
    except (Failed, Rejected):
        return None
