"""Where documents, queries and judgments come from: one provider a file, opened by name."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any, cast

from rerank.collections.base import Collection, SupportsCandidates, SupportsLookup, fetch
from rerank.errors import UsageError
from rerank.formats import read_qrels
from rerank.registry import Registry
from rerank.selector import Selector, build, usage
from rerank.types import Qrels

__all__ = [
    "Collection",
    "SupportsCandidates",
    "SupportsLookup",
    "collections",
    "describe",
    "fetch",
    "judgments",
    "open_collection",
    "providers",
]

collections = Registry("collections", "collection")


def open_collection(selector: str) -> Collection:
    """Open a collection by its selector, e.g. ``"pydoc"``, ``"beir:data/scifact,split=dev"``, ``"irds:vaswani"``.

    Raises:
        UnknownNameError: No such provider or option; the message suggests the nearest.
        MissingResourceError: The folder, file or data set is not there.
    """
    name = Selector.parse(selector).name
    if name not in collections.names() and Path(selector).exists():
        raise UsageError(
            f"{selector!r} is a path, and its format is not said",
            expected=f"one of {', '.join(f'{provider}:{selector}' for provider in ('beir', 'jsonl', 'requests'))}, ...",
            remedy="See `rerank collections`",
        )
    return cast(Collection, build(collections, selector))


def judgments(text: str) -> tuple[Qrels, int]:
    """Judgments and the lowest relevant grade, from a file or from the collection that a selector names."""
    if not Path(text).is_file() and Selector.parse(text).name in collections.names():
        collection = open_collection(text)
        return collection.qrels(), collection.relevant
    return read_qrels(text), 1


def providers() -> list[dict[str, str]]:
    """A row for every provider: name, how it is written, the first line of its documentation."""
    return [
        {"name": name, "usage": usage(name, made), "about": (inspect.getdoc(made) or "").partition("\n")[0]}
        for name, made in collections.usable().items()
    ]


def describe(collection: Collection) -> dict[str, Any]:
    """Counts and properties of one collection; reads all of it."""
    qrels = collection.qrels()
    return {
        "name": collection.name,
        "language": collection.language,
        "documents": sum(1 for _ in collection.docs()),
        "queries": len(collection.queries()),
        "judged_queries": len(qrels),
        "judgments": sum(map(len, qrels.values())),
        "relevant_from_grade": collection.relevant,
        "drop_self": collection.drop_self,
        "fingerprint": collection.fingerprint,
    }
