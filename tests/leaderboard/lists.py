"""Small collections of lists that the tests write, and suites over them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rerank.leaderboard.suites.suite import Suite


def write_lists(folder: Path, name: str = "lists", *, queries: int = 5, depth: int = 12, shift: int = 0) -> str:
    """A requests file and its judgments; return the collection's selector.

    Document ``n`` of a list has grade ``(n + shift) % 4``; lists with another shift have other documents.
    """
    rows, grades = [], []
    for q in range(queries):
        ids = [f"d{q}-{n + shift}" for n in range(depth)]
        docs = [{"docid": one, "doc": f"text {one} of list {q}", "score": 100 - n} for n, one in enumerate(ids)]
        rows.append({"query": {"qid": f"q{q}", "text": f"question number {q}"}, "candidates": docs})
        grades += [f"q{q} 0 {one} {(n + shift) % 4}" for n, one in enumerate(ids)]
    (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    (folder / f"{name}.qrels").write_text("\n".join(grades), encoding="utf-8")
    return f"requests:{folder / name}.jsonl,qrels={folder / name}.qrels"


def suite_of(collection: str | list[dict[str, Any]], **values: Any) -> Suite:
    """A suite over one collection, or over tables, with models that answer on purpose."""
    collections = [collection] if isinstance(collection, str) else collection
    given = {"name": "test", "collections": collections, "first_stages": ["candidates"], "depths": [10]}
    return Suite.make({**given, "models": ["fake:perfect", "fake:reversed"], **values})
