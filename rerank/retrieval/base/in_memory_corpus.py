"""A corpus of texts in memory: ``open_first_stage("bm25", InMemoryCorpus(texts)) % 100 >> reranker``."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from functools import cached_property

from rerank.errors import DataError
from rerank.retrieval.base.given_documents import DocumentLike, given_first_stage_candidates
from rerank.types import Document


class InMemoryCorpus:
    """The documents of a list, in which first stages search.

    Texts and index are stored in the user's cache folder, as for other collections, and are used again for the same
    documents. Further keys of mappings, such as URLs, are not stored, but are part of the documents that are found.

    Args:
        documents: The documents: texts, `Document` objects or mappings. The id of a document without an id is its
            position in the list. Scores are ignored.
        name: Short name for messages and tables.
        language: ISO 639-1 code of the documents' language.

    Raises:
        UsageError: The documents are not a list.
        DataError: There are no documents, a document has no text, or two documents have the same id.
    """

    def __init__(self, documents: Iterable[DocumentLike], *, name: str = "texts", language: str = "en") -> None:
        """Convert the documents, and check that their ids are unique."""
        self.name, self.language = name, language
        self._documents: dict[str, Document] = {}
        if not isinstance(documents, (str, bytes, Document, Mapping)) and isinstance(documents, Iterable):
            documents = [_without_score(document) for document in documents]
        for position, candidate in enumerate(given_first_stage_candidates(documents)):
            document = candidate.document
            if document.id in self._documents:
                raise DataError(
                    f"Document {position} has the id {document.id!r}, which an earlier document has",
                    expected="a different id for each document",
                    remedy="Give each document an id of its own, or none of them: the position is then the id",
                )
            self._documents[document.id] = document
        if not self._documents:
            raise DataError("The list has no documents", expected="at least one document to search in")

    @cached_property
    def fingerprint(self) -> str:
        """Hex SHA-256 of the ids, titles, texts and pictures."""
        digest = hashlib.sha256()
        for doc in self._documents.values():
            digest.update(repr((doc.id, doc.title, doc.text, doc.image)).encode())
        return digest.hexdigest()

    def docs(self) -> Iterator[Document]:
        """Yield the documents in the order of the list."""
        return iter(self._documents.values())

    def lookup(self, ids: Iterable[str]) -> dict[str, Document]:
        """Return the documents with these ids; unknown ids are omitted."""
        return {doc_id: self._documents[doc_id] for doc_id in ids if doc_id in self._documents}

    def with_source(self, doc: Document) -> Document:
        """Return a document with the further keys that it has in the list; documents of other sources are unchanged."""
        own = self._documents.get(doc.id)
        return doc if own is None else replace(doc, source=own.source)


def _without_score(document: DocumentLike) -> DocumentLike:
    return {k: v for k, v in document.items() if k != "score"} if isinstance(document, Mapping) else document
