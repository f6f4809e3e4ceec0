"""What a first stage is: options that, put over a collection, give something that searches. Knows no reranker."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from rerank.types import Document, Query, Run


class Corpus(Protocol):
    """The part of a collection that a first stage needs."""

    @property
    def name(self) -> str:
        """For messages."""

    @property
    def language(self) -> str:
        """ISO 639-1 code."""

    @property
    def fingerprint(self) -> str:
        """Names the saved index."""

    def docs(self) -> Iterator[Document]:
        """Stream the documents."""


class Retriever(Protocol):
    """Something that searches one collection."""

    def search(self, queries: Sequence[Query], k: int) -> Run:
        """Return up to ``k`` documents (with their text) for each query, in query order; a query may get none."""


class FirstStage(Protocol):
    """Options of a way of searching; a frozen dataclass."""

    def over(self, corpus: Corpus) -> Retriever:
        """Make it ready to search ``corpus`` (builds or opens an index)."""
