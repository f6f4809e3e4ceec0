"""Tables of the call log, and functions that convert requests and replies to rows and back and compute checksums."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rerank.prompts.base import Message, Prompt
from rerank.tasks import Reply, Request

CALLS_SCHEMA = """
CREATE TABLE IF NOT EXISTS calls (
    digest TEXT PRIMARY KEY, query_id TEXT NOT NULL, doc_ids TEXT NOT NULL, prompt TEXT NOT NULL,
    sampling TEXT NOT NULL, text TEXT NOT NULL, tokens_in INTEGER NOT NULL, tokens_out INTEGER NOT NULL,
    seconds REAL NOT NULL, finish TEXT NOT NULL, model TEXT NOT NULL, created TEXT NOT NULL, more TEXT)
"""
#: Row numbers of calls that match no request of the finished run. The table exists only if there have been such calls.
UNMATCHED_CALLS_SCHEMA = "CREATE TABLE IF NOT EXISTS unmatched_calls (row INTEGER PRIMARY KEY)"
#: Checksums are in a separate table, so that older versions can still write to the file; their rows have no checksum.
CHECKSUMS_SCHEMA = "CREATE TABLE IF NOT EXISTS checksums (digest TEXT PRIMARY KEY, sum TEXT NOT NULL)"
#: Types of the values of these columns in an undamaged row.
_TYPES = {"text": str, "tokens_in": int, "tokens_out": int, "seconds": float, "finish": str}


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One committed call: the window that was judged, and the reply.

    Attributes:
        query_id: The query of the window.
        doc_ids: The documents of the window, in the order of the prompt.
        seed: The sampling seed of the request.
        reply: The reply.
        digest: The digest of the request.
        row: The number of the call's row in the log.
    """

    query_id: str
    doc_ids: tuple[str, ...]
    seed: int
    reply: Reply
    digest: str = ""
    row: int = 0


def call_log_request_columns(digest: str, request: Request) -> tuple[str, str, str, str, str]:
    """Return the columns of a request: digest, query id, document ids, prompt and sampling."""
    window = request.window
    doc_ids = json.dumps([doc.id for doc in window.docs], ensure_ascii=False)
    prompt = json.dumps([asdict(message) for message in request.prompt], ensure_ascii=False)
    return digest, window.query.id, doc_ids, prompt, json.dumps(asdict(request.sampling))


def call_log_reply_columns(reply: Reply) -> tuple[str, int, int, float, str]:
    """Return the columns of a reply: text, numbers of tokens, seconds and finish reason."""
    return reply.text, reply.tokens_in, reply.tokens_out, reply.seconds, reply.finish


def optional_call_log_fields(reply: Reply) -> str | None:
    """Return a JSON object with the non-empty optional fields of a reply; None if all of them are empty."""
    more = {
        "scores": list(reply.scores),
        "thoughts": reply.thoughts,
        "steps": reply.steps,
        "tokens_cached": reply.tokens_cached,
        "search_units": reply.search_units,
        "error": reply.error,
        "retries": reply.retries,
        "served_model": reply.served_model,
        "fingerprint": reply.fingerprint,
        "is_batched": reply.is_batched,
    }
    present = {key: value for key, value in more.items() if value}
    return json.dumps(present, ensure_ascii=False) if present else None


def call_log_row_checksum(row: Sequence[Any]) -> str:
    """Return the checksum of a row, without empty columns at the end, so that columns can be added to the table."""
    values = list(row)
    while values and values[-1] is None:
        values.pop()
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()[:16]


def prompt_of_log_column(text: str) -> Prompt:
    """Return the prompt that is stored as JSON in a column."""
    return tuple(Message(turn["role"], turn["content"], tuple(turn.get("images", ()))) for turn in json.loads(text))


def call_from_log_row(number: int, row: Mapping[str, Any]) -> Call:
    """Return the call that is stored in a row."""
    extra = json.loads(row["more"]) if row.get("more") else {}
    extra["scores"] = tuple(map(float, extra.get("scores", ())))
    fields = {name: row[name] for name in _TYPES}
    if wrong := [name for name, kind in _TYPES.items() if type(fields[name]) is not kind]:
        raise TypeError(wrong[0])
    return Call(
        query_id=str(row["query_id"]),
        doc_ids=tuple(map(str, json.loads(row["doc_ids"]))),
        seed=int(json.loads(row["sampling"])["seed"]),
        reply=Reply(**fields, **extra),
        digest=str(row["digest"]),
        row=number,
    )
