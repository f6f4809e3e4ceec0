"""Where documents, queries and judgments come from: one provider a file, opened by name."""

from __future__ import annotations

from typing import cast

from rerank.collections.base import Collection, SupportsCandidates, SupportsLookup, fetch
from rerank.registry import Registry
from rerank.selector import build

__all__ = ["Collection", "SupportsCandidates", "SupportsLookup", "collections", "fetch", "open_collection"]

collections = Registry("collections", "collection")


def open_collection(selector: str) -> Collection:
    """Open a collection by its selector, e.g. ``"pydoc"``, ``"beir:data/scifact,split=dev"``, ``"irds:vaswani"``.

    Raises:
        UnknownNameError: No such provider or option; the message suggests the nearest.
        MissingResourceError: The folder, file or data set is not there.
    """
    return cast(Collection, build(collections, selector))
