"""Examples of calls that rank the same documents: curl, Python and the command line."""

from __future__ import annotations

import json
import pprint
import shlex
from collections.abc import Mapping, Sequence
from typing import Any


def curl_example(url: str, query: str, documents: Sequence[str], *, method: str, has_key: bool) -> str:
    """Return a call of the server.

    Args:
        url: Address of the server, without a slash at the end.
        query: The query.
        documents: The texts of the documents.
        method: Name of the method; empty for the server's own, which needs no endpoint of the playground.
        has_key: Whether the server needs a key, which the example takes from the environment.
    """
    path = "/playground/rank" if method else "/v2/rerank"
    body = {"query": query, "documents": list(documents), **({"method": method} if method else {})}
    key = ' -H "Authorization: Bearer $RERANK_KEY"' if has_key else ""
    return (
        f"curl {shlex.quote(url + path)}{key} -H 'Content-Type: application/json' \\\n"
        f"  -d {shlex.quote(json.dumps(body, ensure_ascii=False))}"
    )


def python_example(ranker: Mapping[str, Any], query: str, documents: Sequence[str]) -> str:
    """Return a call of the library.

    Args:
        ranker: Settings of the ranker.
        query: The query.
        documents: The texts of the documents.
    """
    settings = ", ".join(f"{name}={value!r}" for name, value in ranker.items())
    return (
        f"from rerank import Reranker\n\nreranker = Reranker.from_pretrained({settings})\n"
        f"query = {query!r}\ndocuments = {pprint.pformat(list(documents), width=100)}\n"
        "for hit in reranker.rank(query, documents):\n    print(hit.rank, hit.score, hit.text)"
    )


def command_example(ranker: Mapping[str, Any], query: str, documents: Sequence[str]) -> str:
    """Return a call of the command, with a file of the request.

    Args:
        ranker: Settings of the ranker.
        query: The query.
        documents: The texts of the documents.
    """
    hits = [{"docid": str(position), "content": text} for position, text in enumerate(documents, 1)]
    request = json.dumps({"query": query, "hits": hits}, ensure_ascii=False)
    flags = " ".join(_flag(name, value) for name, value in ranker.items())
    return (
        f"printf '%s\\n' {shlex.quote(request)} > request.jsonl\n"
        f"rerank rerank --collection requests:request.jsonl {flags}".rstrip()
    )


def _flag(name: str, value: object) -> str:
    flag = name.replace("_", "-")
    if isinstance(value, bool):
        return f"--{flag}" if value else f"--no-{flag}"
    return f"--{flag} {shlex.quote(str(value))}"
