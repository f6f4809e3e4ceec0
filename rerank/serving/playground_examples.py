"""Code that repeats a ranking of the playground (the server's page for trying methods): curl, Python and commands."""

from __future__ import annotations

import json
import pprint
import shlex
from collections.abc import Mapping
from typing import Any

from rerank.types import Ranking


def playground_curl_example(url: str, candidates: Ranking, *, method: str, has_key: bool) -> str:
    """Return a curl command that requests the ranking from the server.

    Args:
        url: Address of the server, without a slash at the end.
        candidates: The query and the documents, with first-stage scores if there are any.
        method: Name of the method; if empty, the server's own method, which is available without the playground's
            endpoint.
        has_key: Whether the server needs a key. The example reads it from the environment variable ``RERANK_KEY``.
    """
    path = "/playground/rank" if method else "/v2/rerank"
    body: dict[str, Any] = {"query": candidates.query.text, "documents": _texts(candidates)}
    if candidates.scores:
        body["scores"] = candidates.scores
    if method:
        body |= {"method": method, "depth": len(candidates)}
    key = ' -H "Authorization: Bearer $RERANK_KEY"' if has_key else ""
    return (
        f"curl {shlex.quote(url + path)}{key} -H 'Content-Type: application/json' \\\n"
        f"  -d {shlex.quote(json.dumps(body, ensure_ascii=False))}"
    )


def playground_python_example(ranker: Mapping[str, Any], candidates: Ranking) -> str:
    """Return Python code that computes the ranking with the library.

    Args:
        ranker: Settings of the ranker, as for `Reranker.from_pretrained`.
        candidates: The query and the documents, with first-stage scores if there are any.
    """
    settings = ", ".join(f"{name}={value!r}" for name, value in ranker.items())
    return (
        f"from rerank import Reranker\n\nreranker = Reranker.from_pretrained({settings})\n"
        f"query = {candidates.query.text!r}\ndocuments = {pprint.pformat(_texts(candidates), width=100)}\n"
        f"scores = {list(candidates.scores) or None}\n"
        "for hit in reranker.rank(query, documents, scores=scores):\n    print(hit.rank, hit.score, hit.text)"
    )


def playground_command_example(ranker: Mapping[str, Any], candidates: Ranking) -> str:
    """Return shell commands that write the query and the documents to a file, and rank them.

    Args:
        ranker: Settings of the ranker, as for `Reranker.from_pretrained`.
        candidates: The query and the documents, with first-stage scores if there are any.
    """
    # The id is the one that queries without id have in Python: random orders of some methods depend on the id.
    query = {"qid": candidates.query.id, "text": candidates.query.text}
    entries = [{"docid": str(position), "doc": {"text": text}} for position, text in enumerate(_texts(candidates), 1)]
    scored = [{**entry, "score": score} for entry, score in zip(entries, candidates.scores, strict=False)]
    request = json.dumps({"query": query, "candidates": scored or entries}, ensure_ascii=False)
    flags = " ".join(_flag(name, value) for name, value in ranker.items())
    return (
        f"printf '%s\\n' {shlex.quote(request)} > request.jsonl\n"
        f"rerank rerank --collection requests:request.jsonl {flags}".rstrip()
    )


def _texts(candidates: Ranking) -> list[str]:
    return [document.full_text for document in candidates.docs]


def _flag(name: str, value: object) -> str:
    flag = name.replace("_", "-")
    if isinstance(value, bool):
        return f"--{flag}" if value else f"--no-{flag}"
    return f"--{flag} {shlex.quote(str(value))}"
