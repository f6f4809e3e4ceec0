"""The protocol of collections, which combine documents, queries and relevance judgments under one name."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from rerank.collections.base.corpus import (
    Corpus,
    SupportsCandidates,
    SupportsCandidateStream,
    SupportsDropSelf,
    SupportsLookup,
    SupportsQueryFields,
    fetch_documents,
)
from rerank.types import Qrels, Query

__all__ = [
    "Collection",
    "SupportsCandidateStream",
    "SupportsCandidates",
    "SupportsLookup",
    "SupportsQueryFields",
    "fetch_documents",
]


@runtime_checkable
class Collection(Corpus, SupportsDropSelf, Protocol):
    """A corpus with queries and relevance judgments; a part that does not exist is empty."""

    @property
    def relevant(self) -> int:
        """Lowest grade that binary measures count as relevant (usually 1, but 2 for TREC Deep Learning)."""

    def queries(self) -> list[Query]:
        """Return all queries in the order of the file; empty if there are none."""

    def qrels(self) -> Qrels:
        """Return the judgments; empty if there are none."""
