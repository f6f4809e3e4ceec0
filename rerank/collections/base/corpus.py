"""Protocols for a corpus and for features that only some collections support."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Protocol, runtime_checkable

from rerank.errors import DataError
from rerank.types import Document, Ranking, Run


class Corpus(Protocol):
    """The documents of a collection, as needed by first stages."""

    @property
    def name(self) -> str:
        """Short name for run tags, tables and messages, e.g. ``scifact`` or ``pydoc``."""

    @property
    def language(self) -> str:
        """ISO 639-1 code of the documents' language, for stemmers and stop words."""

    @property
    def fingerprint(self) -> str:
        """Hex SHA-256 of the content (file bytes and options that select from them), used in the path of indexes."""

    def docs(self) -> Iterator[Document]:
        """Yield the documents in a fixed order; each call starts from the first document."""


@runtime_checkable
class SupportsCandidates(Protocol):
    """A collection that may contain candidate lists, such as first-stage rankings published with a data set."""

    def candidates(self) -> Run:
        """Return a run with one ranking per query, with document texts; empty if there are no candidate lists."""


@runtime_checkable
class SupportsCandidateStream(Protocol):
    """A collection that can stream its own candidate lists without holding all of them in memory."""

    def candidate_lists(self) -> Iterator[Ranking]:
        """Yield the rankings of `SupportsCandidates.candidates`, one per query; each call starts with the first."""


@runtime_checkable
class SupportsDropSelf(Protocol):
    """A collection with an option for BEIR's rule, by which a document with the query's own id is dropped."""

    @property
    def drop_self(self) -> bool:
        """Whether a retrieved document with the query's own id must be dropped."""


@runtime_checkable
class SupportsExclusion(Protocol):
    """A collection that lists documents that must not be ranked for a query, as in the benchmark BRIGHT."""

    def excluded(self) -> Mapping[str, frozenset[str]]:
        """Return, by query id, the ids of documents that must not be ranked; queries without any are omitted."""


@runtime_checkable
class SupportsQueryFields(Protocol):
    """A collection whose queries have fields besides their text, such as categories or languages."""

    def query_fields(self) -> Mapping[str, Mapping[str, str]]:
        """Return the values of the fields as a mapping field -> query id -> value; missing values are omitted."""


@runtime_checkable
class SupportsLookup(Protocol):
    """A collection with random access to documents by id."""

    def lookup(self, ids: Iterable[str]) -> dict[str, Document]:
        """Return the documents with these ids; unknown ids are omitted."""


@runtime_checkable
class SupportsSource(Protocol):
    """A corpus whose documents have further keys, such as URLs, which indexes do not store."""

    def with_source(self, doc: Document) -> Document:
        """Return a document with the further keys that it has in this corpus, if it is one of its documents."""


def fetch_documents(corpus: Corpus, ids: Iterable[str]) -> dict[str, Document]:
    """Return the documents with these ids, by random access if supported, otherwise in one pass over the corpus.

    Raises:
        DataError: Some ids are not in the collection.
    """
    requested = set(ids)
    if isinstance(corpus, SupportsLookup):
        documents = corpus.lookup(requested)
    else:
        documents = {}
        for doc in corpus.docs() if requested else ():
            if doc.id in requested:
                documents[doc.id] = doc
            if len(documents) == len(requested):
                break
    if missing := sorted(requested - documents.keys()):
        raise DataError(
            f"{len(missing)} of {len(requested)} documents are not in the collection {corpus.name!r}, "
            f"including {', '.join(map(repr, missing[:3]))}",
            remedy="Check that the run belongs to this collection",
        )
    return documents
