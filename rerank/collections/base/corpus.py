"""What first stages and runs need of a collection, apart from who provides it. Knows no file format."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Protocol, runtime_checkable

from rerank.errors import DataError
from rerank.types import Document, Run


class Corpus(Protocol):
    """The part of a collection that a first stage needs."""

    @property
    def name(self) -> str:
        """A short name for run tags, tables and messages, e.g. ``scifact`` or ``pydoc``."""

    @property
    def language(self) -> str:
        """ISO 639-1 code of the documents, for stemmers and stop words."""

    @property
    def fingerprint(self) -> str:
        """Hex SHA-256 of what is read (files' bytes and the options that select among them); names the saved index."""

    def docs(self) -> Iterator[Document]:
        """Stream the documents, in a fixed order; can be called again."""


@runtime_checkable
class SupportsCandidates(Protocol):
    """A collection that brings its own first-stage lists."""

    def candidates(self) -> Run:
        """One list per query, documents with their text; empty if the collection brings none."""


@runtime_checkable
class SaysDropSelf(Protocol):
    """A collection that says whether BEIR's rule holds for it."""

    @property
    def drop_self(self) -> bool:
        """Whether a retrieved document whose id equals the query's is dropped."""


@runtime_checkable
class SupportsQueryFields(Protocol):
    """A collection that says more about its queries than their words, such as categories or languages."""

    def query_fields(self) -> Mapping[str, Mapping[str, str]]:
        """Field -> query id -> value, for scores by group; a query without a value is left out."""


@runtime_checkable
class SupportsLookup(Protocol):
    """A collection that finds documents by id without reading all of them."""

    def lookup(self, ids: Iterable[str]) -> dict[str, Document]:
        """The documents with these ids; ids that do not exist are left out."""


def fetch(corpus: Corpus, ids: Iterable[str]) -> dict[str, Document]:
    """Return the documents with these ids, by random access where there is any, else in one pass.

    Raises:
        DataError: Some ids are not in the collection.
    """
    wanted = set(ids)
    if isinstance(corpus, SupportsLookup):
        found = corpus.lookup(wanted)
    else:
        found = {}
        for doc in corpus.docs() if wanted else ():
            if doc.id in wanted:
                found[doc.id] = doc
            if len(found) == len(wanted):
                break
    if missing := sorted(wanted - found.keys()):
        raise DataError(
            f"{len(missing)} of {len(wanted)} documents are not in the collection {corpus.name!r}, "
            f"first {', '.join(map(repr, missing[:3]))}",
            remedy="Check that the run belongs to this collection",
        )
    return found
