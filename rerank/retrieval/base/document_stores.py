"""Shared parts of first stages that search a user's own document store, such as Elasticsearch or PostgreSQL.

A store returns its own texts, so the collection only has to provide the queries. The address and the key of a store
come from environment variables, because selectors are recorded in run folders, which users may share with others.
"""

from __future__ import annotations

import importlib
import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from rerank.collections.base import Corpus
from rerank.errors import DataError, MissingPrerequisiteError, UsageError, ensure
from rerank.indexing.options import EncoderOptions
from rerank.installation import install_command
from rerank.retrieval.base.given_documents import given_first_stage_candidates
from rerank.retrieval.base.stages import check_depth
from rerank.types import Document, Query, Ranking, Run

if TYPE_CHECKING:
    from rerank.indexing.text_encoder import Encoder

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreHit:
    """A document as returned by a store, before its values are checked."""

    id: object  # the identifier; None if it is missing
    text: object  # the text; None if it is missing
    title: object  # the title; None if the document has no title
    score: float  # the score; higher is better


@dataclass(frozen=True, kw_only=True)
class StoreOptions(EncoderOptions):
    """Options shared by all first stages that search a document store; the model embeds only the queries."""

    stage: ClassVar[str]  # name of the first stage and of its extra
    package: ClassVar[str]  # name of the client's Python package
    deepest: ClassVar[int] = 1_000_000  # maximum number of documents per query that the store returns
    text: str = "text"  # field with the text of a document
    title: str = ""  # field with the title of a document; empty if documents have no title
    #: Embedding model that computed the store's vectors: a name listed by ``rerank models``, a folder, or
    #: ``owner/model`` on the hub.
    model: str = "all-minilm-l6-v2"
    timeout: float = 30.0  # seconds to wait for a response from the store, at least 1

    def __post_init__(self) -> None:
        is_long = math.isfinite(self.timeout) and self.timeout >= 1
        ensure(is_long, f"Option timeout={self.timeout} of the store is too small", expected="at least 1 second")
        ensure(self.dim >= 0, f"Option dim={self.dim} of the store is negative", expected="at least 0")

    @property
    @abstractmethod
    def place(self) -> str:
        """Description of the table, collection or index for messages, such as ``the table 'docs'``."""

    @property
    def uses_model(self) -> bool:
        """Whether vectors are searched, so that a model has to encode the queries."""
        return True

    @abstractmethod
    def connect(self) -> AbstractContextManager[Any]:
        """Connect to the store during a block; errors of its client become errors of this package."""

    @abstractmethod
    def check(self, client: Any, encoder: Encoder | None) -> Any:
        """Check the place, its fields and the dimension of its vectors, and return what `find` needs to know of it."""

    @abstractmethod
    def find(self, client: Any, checked: Any, encoder: Encoder | None, query: str, depth: int) -> Sequence[StoreHit]:
        """Return up to ``depth`` documents for the text of a query, best first."""

    def check_prerequisites(self) -> None:
        from rerank.indexing.text_encoder import require_encoder_packages

        try:
            importlib.import_module(self.package)
        except ImportError as error:
            raise MissingPrerequisiteError(
                f"The first stage {self.stage!r} needs {self.package}, which cannot be imported: {error}",
                remedy=f"Run: {install_command(self.stage, 'dense')}",
            ) from error
        if self.uses_model:
            require_encoder_packages()

    def over(self, corpus: Corpus) -> StoreRetriever:
        from rerank.indexing.text_encoder import load_text_encoder
        from rerank.retrieval.base.model_folders import locate_retrieval_model

        self.check_prerequisites()
        return self.retriever(load_text_encoder(locate_retrieval_model(self.model), self) if self.uses_model else None)

    def retriever(self, encoder: Encoder | None) -> StoreRetriever:
        """Check the store, and return a retriever that encodes queries with ``encoder``."""
        with self.connect() as client:
            return StoreRetriever(self, encoder, self.check(client, encoder))


def check_dimension(place: str, found: int | None, model: str, size: int) -> None:
    """Check that the vectors of a store have as many dimensions as those of the model."""
    ensure(
        found is None or found == size,
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


@dataclass(frozen=True, slots=True)
class StoreRetriever:
    """A retriever over a document store, to which each call of `search` connects once."""

    store: StoreOptions
    encoder: Encoder | None
    checked: Any  # the result of `StoreOptions.check`

    def search(self, queries: Sequence[Query], k: int) -> Run:
        """Return up to ``k`` documents per query; the ranking of a query without text is empty.

        Raises:
            DataError: A document has no id or no text, or two documents have the same id.
            BackendError: The store cannot be reached, or does not respond in time.
        """
        store, deepest = self.store, self.store.deepest
        ensure(
            check_depth(k) <= deepest,
            f"{k} documents per query were requested from {store.place}",
            expected=f"at most {deepest}",
        )
        rankings = [Ranking(query, (), ()) for query in queries]
        if with_text := [(place, query) for place, query in enumerate(queries) if query.text.strip()]:
            with store.connect() as client:
                for place, query in with_text:
                    depth = min(k + 1, deepest)
                    hits = store.find(client, self.checked, self.encoder, query.text, depth)
                    # a tie that spans rank k is broken by document id, so all of its documents are needed
                    while k < len(hits) == depth < deepest and hits[k - 1].score == hits[-1].score:
                        depth = min(2 * depth, deepest)
                        hits = store.find(client, self.checked, self.encoder, query.text, depth)
                    rankings[place] = Ranking.from_scores(query, self._scored_documents(query, hits)).top(k)
        return Run(rankings, name=store.stage)

    def _scored_documents(self, query: Query, hits: Sequence[StoreHit]) -> list[tuple[Document, float]]:
        for hit in hits:
            if hit.id is None or hit.text is None:
                missing = "id" if hit.id is None else "text"
                name = f"document number {hits.index(hit) + 1}" if hit.id is None else f"document {str(hit.id)!r}"
                raise DataError(
                    f"In {self.store.place}, {name} for the query {query.id!r} has no {missing}",
                    expected=f"an id and a text in every document, and the option {missing!r} set to its field",
                )
        rows = [{"id": str(hit.id), "text": hit.text, "title": hit.title, "score": hit.score} for hit in hits]
        candidates = given_first_stage_candidates(rows)
        ids = [candidate.document.id for candidate in candidates]
        if len(set(ids)) < len(ids):
            duplicate = next(name for name in ids if ids.count(name) > 1)
            raise DataError(
                f"{self.store.place} contains the document {duplicate!r} more than once",
                expected="each id once",
                remedy="Set the option 'id' to a field whose value is unique for each document",
            )
        return [(candidate.document, candidate.score or 0.0) for candidate in candidates]
