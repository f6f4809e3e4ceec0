"""Collections of documents, queries and relevance judgments, such as ``beir:data/scifact`` of the provider Beir."""

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from rerank.collections.base import (
    Collection,
    SupportsCandidates,
    SupportsCandidateStream,
    SupportsLookup,
    SupportsQueryFields,
    fetch_documents,
)
from rerank.errors import UnknownNameError, UsageError
from rerank.io.paths import is_path_like, named_path_errors
from rerank.io.run_files import read_qrels
from rerank.registry import Registry
from rerank.selector import Selector, build_from_selector, selector_syntax
from rerank.types import Qrels

__all__ = [
    "Collection",
    "SupportsCandidateStream",
    "SupportsCandidates",
    "SupportsLookup",
    "SupportsQueryFields",
    "collections",
    "describe_collection",
    "fetch_documents",
    "list_collection_providers",
    "open_collection",
    "open_collection_qrels",
    "read_query_field",
]

collections = Registry(
    "collections",
    "collection",
    shared={"collections.jsonl": "beir jsonl pictures", "collections.inquire": "inquire inquire_rerank"},
)


@named_path_errors()
def open_collection(selector: str) -> Collection:
    """Open a collection by its selector, e.g. ``"pydoc"``, ``"beir:data/scifact,split=dev"``, ``"irds:vaswani"``.

    Raises:
        UnknownNameError: There is no such provider or option; the message suggests similar names.
        UsageError: The selector is a path without a provider.
        MissingResourceError: The folder, file or data set does not exist.
    """
    if Selector.parse(selector).name not in collections and (is_path_like(selector) or Path(selector).exists()):
        raise UsageError(
            f"{selector!r} is a path without a provider",
            expected=f"one of {', '.join(f'{provider}:{selector}' for provider in ('beir', 'jsonl', 'requests'))}, ...",
            remedy="Run `rerank collections` to list all providers",
        )
    return cast(Collection, build_from_selector(collections, selector))


def open_collection_qrels(text: str) -> tuple[Qrels, int]:
    """Return the judgments of a file or a collection, and the lowest grade that counts as relevant.

    ``text`` is a path or a selector. For a file, the lowest relevant grade is 1. A bare name that is neither a file nor
    a collection is an `UnknownNameError`.
    """
    if not Path(text).is_file() and Selector.parse(text).name in collections:
        collection = open_collection(text)
        return collection.qrels(), collection.relevant
    if not Path(text).exists() and Path(text).name == text and not Path(text).suffix:
        raise UnknownNameError("file or collection of judgments", text, collections.names())
    return read_qrels(text), 1


def read_query_field(text: str, field: str) -> Mapping[str, str]:
    """Return a mapping from query id to the value of one field of the queries, such as their category.

    Raises:
        UsageError: ``text`` is not the selector of a collection whose queries have fields.
        UnknownNameError: The queries have no such field; the message suggests similar names.
    """
    is_selector = not Path(text).is_file() and Selector.parse(text).name in collections
    collection: object = open_collection(text) if is_selector else None
    if not isinstance(collection, SupportsQueryFields):
        raise UsageError(
            f"{text!r} is not a collection with query fields, so there is no field {field}",
            expected="a collection with query fields, such as inquire:FOLDER",
            remedy="Pass such a collection, or a file with two columns, query and group",
        )
    fields = collection.query_fields()
    if field not in fields:
        raise UnknownNameError("query field", field, fields)
    return fields[field]


def list_collection_providers() -> list[dict[str, str]]:
    """Return one row per provider, with its name, its usage, and the first line of its docstring as description."""
    return [
        {
            "name": name,
            "usage": selector_syntax(name, provider),
            "about": (inspect.getdoc(provider) or "").partition("\n")[0],
        }
        for name, provider in ((name.replace("_", "-"), cls) for name, cls in collections.usable().items())
    ]


def describe_collection(collection: Collection) -> dict[str, Any]:
    """Return properties (language, fingerprint ...) and counts (documents, queries ...); all documents are read."""
    qrels = collection.qrels()
    return {
        "name": collection.name,
        "language": collection.language,
        "documents": sum(1 for _ in collection.docs()),
        "queries": len(collection.queries()),
        "judged_queries": len(qrels),
        "judgments": sum(map(len, qrels.judged().values())),
        "relevant_from_grade": collection.relevant,
        "drop_self": collection.drop_self,
        "fingerprint": collection.fingerprint,
    }
