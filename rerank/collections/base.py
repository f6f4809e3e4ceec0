"""What a collection is: documents, queries and judgments under one name. Knows no file format."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol, runtime_checkable

from rerank.errors import DataError
from rerank.types import Document, Qrels, Query, Run


@runtime_checkable
class Collection(Protocol):
    """Documents, queries and judgments. Parts that do not exist are empty, never an error."""

    @property
    def name(self) -> str:
        """A short name for run tags and tables, e.g. ``scifact`` or ``pydoc``."""

    @property
    def language(self) -> str:
        """ISO 639-1 code of the documents, for stemmers and stop words."""

    @property
    def fingerprint(self) -> str:
        """Hex SHA-256 of the content that is read (files' bytes and the options that select among them)."""

    @property
    def drop_self(self) -> bool:
        """BEIR's rule: a retrieved document whose id equals the query's is dropped."""

    @property
    def relevant(self) -> int:
        """The lowest grade that binary measures count as relevant (1; 2 for TREC Deep Learning)."""

    def docs(self) -> Iterator[Document]:
        """Stream the documents, in a fixed order; can be called again."""

    def queries(self) -> list[Query]:
        """All queries, in file order."""

    def qrels(self) -> Qrels:
        """The judgments; empty if there are none."""


@runtime_checkable
class SupportsCandidates(Protocol):
    """A collection that brings its own first-stage lists."""

    def candidates(self) -> Run:
        """One list per query, documents with their text."""


@runtime_checkable
class SupportsLookup(Protocol):
    """A collection that finds documents by id without reading all of them."""

    def lookup(self, ids: Iterable[str]) -> dict[str, Document]:
        """The documents with these ids; ids that do not exist are left out."""


def fetch(collection: Collection, ids: Iterable[str]) -> dict[str, Document]:
    """Return the documents with these ids, by random access where there is any, else in one pass.

    Raises:
        DataError: Some ids are not in the collection.
    """
    wanted = set(ids)
    if isinstance(collection, SupportsLookup):
        found = collection.lookup(wanted)
    else:
        found = {}
        for doc in collection.docs():
            if doc.id in wanted:
                found[doc.id] = doc
            if len(found) == len(wanted):
                break
    if missing := sorted(wanted - found.keys()):
        raise DataError(
            f"{len(missing)} of {len(wanted)} documents are not in the collection {collection.name!r}, "
            f"first {', '.join(map(repr, missing[:3]))}",
            remedy="Check that the run belongs to this collection",
        )
    return found
