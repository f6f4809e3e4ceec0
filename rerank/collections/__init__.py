"""Where documents, queries and judgments come from: one provider a file, opened by name."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from rerank.collections.base import Collection, SupportsCandidates, SupportsLookup, SupportsQueryFields, fetch
from rerank.errors import UnknownNameError, UsageError
from rerank.io.run_files import read_qrels
from rerank.registry import Registry
from rerank.selector import Selector, build, usage
from rerank.types import Qrels

__all__ = [
    "Collection",
    "SupportsCandidates",
    "SupportsLookup",
    "SupportsQueryFields",
    "collections",
    "describe",
    "fetch",
    "judgments",
    "open_collection",
    "providers",
    "query_field",
]

collections = Registry("collections", "collection")


def open_collection(selector: str) -> Collection:
    """Open a collection by its selector, e.g. ``"pydoc"``, ``"beir:data/scifact,split=dev"``, ``"irds:vaswani"``.

    Raises:
        UnknownNameError: No such provider or option; the message suggests the nearest.
        MissingResourceError: The folder, file or data set is not there.
    """
    name = Selector.parse(selector).name
    if name not in collections and Path(selector).exists():
        raise UsageError(
            f"{selector!r} is a path, and its format is not said",
            expected=f"one of {', '.join(f'{provider}:{selector}' for provider in ('beir', 'jsonl', 'requests'))}, ...",
            remedy="See `rerank collections`",
        )
    return cast(Collection, build(collections, selector))


def judgments(text: str) -> tuple[Qrels, int]:
    """Judgments and the lowest relevant grade, from a file or from the collection that a selector names."""
    if not Path(text).is_file() and Selector.parse(text).name in collections:
        collection = open_collection(text)
        return collection.qrels(), collection.relevant
    return read_qrels(text), 1


def query_field(text: str, field: str) -> Mapping[str, str]:
    """Query id -> value of one field of a collection's queries, such as their category.

    Args:
        text: The collection's selector.
        field: The field's name.

    Raises:
        UsageError: It is no selector of a collection whose queries have fields.
        UnknownNameError: They have no such field; the message suggests the nearest.
    """
    named = not Path(text).is_file() and Selector.parse(text).name in collections
    collection: object = open_collection(text) if named else None
    if not isinstance(collection, SupportsQueryFields):
        raise UsageError(
            f"Nothing says the {field} of the queries of {text!r}",
            expected="a collection that does, such as inquire:FOLDER",
            remedy="Or name a file of two columns, query and group",
        )
    fields = collection.query_fields()
    if field not in fields:
        raise UnknownNameError("field of queries", field, fields)
    return fields[field]


def providers() -> list[dict[str, str]]:
    """A row for every provider: name, how it is written, the first line of its documentation."""
    return [
        {"name": name, "usage": usage(name, made), "about": (inspect.getdoc(made) or "").partition("\n")[0]}
        for name, made in ((name.replace("_", "-"), made) for name, made in collections.usable().items())
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
