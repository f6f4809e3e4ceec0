"""Protocols of a corpus, and of the features that only some collections support."""

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
        """Hex SHA-256 of the content (file bytes and the options that select from them); it names the saved index."""

    def docs(self) -> Iterator[Document]:
        """Stream the documents in a fixed order; can be called repeatedly."""


@runtime_checkable
class SupportsCandidates(Protocol):
    """A collection that has its own candidate lists."""

    def candidates(self) -> Run:
        """Return one ranking per query, with document texts; empty if the collection has none."""


@runtime_checkable
class SupportsCandidateStream(Protocol):
    """A collection that can stream its own candidate lists, without having all of them in memory."""

    def candidate_lists(self) -> Iterator[Ranking]:
        """Stream the rankings of `SupportsCandidates.candidates`, each query once; can be called repeatedly."""


@runtime_checkable
class SupportsDropSelf(Protocol):
    """A collection that can apply BEIR's rule: drop a document with the query's own id from its ranking."""

    @property
    def drop_self(self) -> bool:
        """True if a retrieved document with the query's own id must be dropped."""


@runtime_checkable
class SupportsExclusion(Protocol):
    """A collection that names documents which must not be ranked for a query, such as BRIGHT's excluded ids."""

    def excluded(self) -> Mapping[str, frozenset[str]]:
        """Return query id -> ids of these documents; queries without any are omitted."""


@runtime_checkable
class SupportsQueryFields(Protocol):
    """A collection whose queries have fields besides their text, such as categories or languages."""

    def query_fields(self) -> Mapping[str, Mapping[str, str]]:
        """Return field -> query id -> value, for scores per query group; queries without a value are omitted."""


@runtime_checkable
class SupportsLookup(Protocol):
    """A collection with random access to documents by id."""

    def lookup(self, ids: Iterable[str]) -> dict[str, Document]:
        """Return the documents with these ids; unknown ids are omitted."""


def fetch_documents(corpus: Corpus, ids: Iterable[str]) -> dict[str, Document]:
    """Return the documents with these ids, by random access if supported, otherwise in one pass.

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
            f"first {', '.join(map(repr, missing[:3]))}",
            remedy="Check that the run belongs to this collection",
        )
    return documents
