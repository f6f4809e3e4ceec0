"""What a collection is: documents, queries and judgments under one name. Knows no file format."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol, runtime_checkable

from rerank.corpus import SupportsCandidates, SupportsLookup, fetch
from rerank.types import Document, Qrels, Query

__all__ = ["Collection", "SupportsCandidates", "SupportsLookup", "fetch"]


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
