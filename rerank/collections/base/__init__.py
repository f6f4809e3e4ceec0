"""What a collection is: documents, queries and judgments under one name. Knows no file format."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from rerank.collections.base.corpus import (
    Corpus,
    SaysDropSelf,
    SupportsCandidates,
    SupportsLookup,
    SupportsQueryFields,
    fetch,
)
from rerank.types import Qrels, Query

__all__ = ["Collection", "SupportsCandidates", "SupportsLookup", "SupportsQueryFields", "fetch"]


@runtime_checkable
class Collection(Corpus, SaysDropSelf, Protocol):
    """Documents (see `Corpus`), queries and judgments. Parts that do not exist are empty, never an error."""

    @property
    def relevant(self) -> int:
        """The lowest grade that binary measures count as relevant (1; 2 for TREC Deep Learning)."""

    def queries(self) -> list[Query]:
        """All queries, in file order."""

    def qrels(self) -> Qrels:
        """The judgments; empty if there are none."""
