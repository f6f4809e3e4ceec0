"""Shared parts of first stages that search a user's own document store, such as Elasticsearch or PostgreSQL.

A store returns its own texts, so the collection only has to provide the queries. The address and the key of a store
come from environment variables, because selectors are recorded in run folders, which users may share with others.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeVar

from rerank.errors import DataError, MissingPrerequisiteError, UsageError
from rerank.indexing.options import EncoderOptions
from rerank.retrieval.base.given_documents import given_first_stage_candidates
from rerank.retrieval.base.stages import check_depth
from rerank.types import Document, Query, Ranking, Run

if TYPE_CHECKING:
    from rerank.indexing.text_encoder import Encoder

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class StoreOptions(EncoderOptions):
    """Options shared by all first stages that search a document store; the model embeds only the queries."""

    text: str = "text"  # field with the text of a document
    title: str = ""  # field with the title of a document; empty if documents have no title
    #: Embedding model that computed the store's vectors: a name listed by ``rerank models``, a folder, or
    #: ``owner/model`` on the hub.
    model: str = "all-minilm-l6-v2"
    timeout: float = 30.0  # seconds to wait for a response from the store, at least 1

    def __post_init__(self) -> None:
        if not (math.isfinite(self.timeout) and self.timeout >= 1):
            raise UsageError(f"Option timeout={self.timeout} of the store is too small", expected="at least 1 second")
        if self.dim < 0:
            raise UsageError(f"Option dim={self.dim} of the store is negative", expected="at least 0")

    def encoder(self) -> Encoder:
        """Load the embedding model that encodes the queries."""
        from rerank.indexing.text_encoder import load_text_encoder
        from rerank.retrieval.base.model_folders import locate_retrieval_model

        return load_text_encoder(locate_retrieval_model(self.model), self)


def require_client(package: str, extra: str, *, model: bool = True) -> None:
    """Check that the client of a store can be imported, and also the packages that an embedding model needs."""
    from rerank.indexing.text_encoder import require_encoder_packages

    try:
        importlib.import_module(package)
    except ImportError as error:
        raise MissingPrerequisiteError(
            f"The first stage {extra!r} needs {package}, which cannot be imported: {error}",
            remedy=f"Run: pip install 'listrank[{extra},dense]'",
        ) from error
    if model:
        require_encoder_packages()


def check_dimension(place: str, found: int | None, model: str, size: int) -> None:
    """Check that the vectors of a store have as many dimensions as those of the model."""
    if found is not None and found != size:
        raise UsageError(
            f"The vectors of {place} have {found} dimensions, but those of the model {model!r} have {size}",
            expected="the model that computed the vectors",
            remedy="Set the option 'model', and 'dim' if vectors were shortened",
        )


def find_part(kind: str, name: str, known: Mapping[str, T], place: str) -> T:
    """Return the part of a store with a given name, such as a column."""
    if name not in known:
        listed = ", ".join(sorted(known)[:12]) or "none"
        raise UsageError(f"There is no {kind} {name!r} in {place}", expected=f"one of (at most 12 shown): {listed}")
    return known[name]


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreHit:
    """A document as returned by a store, before its values are checked."""

    id: object  # the identifier; None if it is missing
    text: object  # the text; None if it is missing
    title: object  # the title; None if the document has no title
    score: float  # the score; higher is better


class StoreSearch(Protocol):
    """Protocol of functions that search a store."""

    def __call__(self, query: str, depth: int) -> Sequence[StoreHit]:
        """Return up to ``depth`` documents for the text of a query, best first."""


@dataclass(frozen=True, slots=True)
class StoreRetriever:
    """A retriever over a document store."""

    name: str
    place: str  # description of the table, collection or index for messages, such as ``the table 'docs'``
    #: Function that returns a context manager, which connects to the store and provides the search function. Each call
    #: of `search` connects once.
    connect: Callable[[], AbstractContextManager[StoreSearch]]
    deepest: int = 1_000_000  # maximum number of documents per query that the store returns

    def search(self, queries: Sequence[Query], k: int) -> Run:
        """Return up to ``k`` documents per query; the ranking of a query without text is empty.

        Raises:
            DataError: A document has no id or no text, or two documents have the same id.
            BackendError: The store cannot be reached, or does not respond in time.
        """
        if check_depth(k) > self.deepest:
            raise UsageError(
                f"{k} documents per query were requested from {self.place}", expected=f"at most {self.deepest}"
            )
        if not any(query.text.strip() for query in queries):
            return Run((Ranking(query, (), ()) for query in queries), name=self.name)
        with self.connect() as search:
            return Run([self._rank(search, query, k) for query in queries], name=self.name)

    def _rank(self, search: StoreSearch, query: Query, k: int) -> Ranking:
        if not query.text.strip():
            return Ranking(query, (), ())
        depth = min(k + 1, self.deepest)
        hits = search(query.text, depth)
        # a tie that spans rank k is broken by document id, so all of its documents are needed
        while k < len(hits) == depth < self.deepest and hits[k - 1].score == hits[-1].score:
            depth = min(2 * depth, self.deepest)
            hits = search(query.text, depth)
        return Ranking.from_scores(query, self._scored_documents(query, hits)).top(k)

    def _scored_documents(self, query: Query, hits: Sequence[StoreHit]) -> list[tuple[Document, float]]:
        for hit in hits:
            if hit.id is None or hit.text is None:
                missing = "id" if hit.id is None else "text"
                name = f"document number {hits.index(hit) + 1}" if hit.id is None else f"document {str(hit.id)!r}"
                raise DataError(
                    f"In {self.place}, {name} for the query {query.id!r} has no {missing}",
                    expected=f"an id and a text in every document, and the option {missing!r} set to its field",
                )
        rows = [{"id": str(hit.id), "text": hit.text, "title": hit.title, "score": hit.score} for hit in hits]
        candidates = given_first_stage_candidates(rows)
        ids = [candidate.document.id for candidate in candidates]
        if len(set(ids)) < len(ids):
            duplicate = next(name for name in ids if ids.count(name) > 1)
            raise DataError(
                f"{self.place} contains the document {duplicate!r} more than once",
                expected="each id once",
                remedy="Set the option 'id' to a field whose value is unique for each document",
            )
        return [(candidate.document, candidate.score or 0.0) for candidate in candidates]
