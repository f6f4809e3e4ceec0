"""First stages over a store that already contains the user's documents: options, queries and results.

A store returns its own texts, so the collection only has to provide the queries. The address of a store and its key
come from environment variables, because selectors are recorded in run folders, which are passed on.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, TypeVar

from rerank.errors import DataError, MissingPrerequisiteError, UsageError
from rerank.retrieval.base.given_documents import given_first_stage_candidates
from rerank.retrieval.base.stages import check_retrieval_depth
from rerank.types import Document, Query, Ranking, Run

if TYPE_CHECKING:
    from rerank.indexing.text_encoder import Encoder

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreOptions:
    """The options of every first stage over a document store.

    Attributes:
        text: Field with the text of a document.
        title: Field with its title; empty if documents have no title.
        model: The embedding model with which the store's vectors were computed, as for ``dense``.
        query_prompt: Text put before every query; ``auto`` for the prompt saved with the model, ``none`` for no prompt.
        normalise: Scale the vector of a query to length 1.
        dim: Number of leading dimensions to keep, for Matryoshka models; 0 for all.
        dtype: Data type of the model.
        device: ``cpu``, ``cuda``, ``cuda:1``, ``mps``, or ``auto``: the first accelerator, or the CPU without one.
        revision: Branch, tag or commit of the model on the hub; empty for the default branch.
        trust_remote_code: Run Python code that comes with the model.
        timeout: Seconds to wait for the store.

    Raises:
        UsageError: A number is out of range.
    """

    text: str = "text"
    title: str = ""
    model: str = "all-minilm-l6-v2"
    query_prompt: str = "auto"
    normalise: bool = True
    dim: int = 0
    dtype: Literal["float32", "bfloat16", "float16", "auto"] = "float32"
    device: str = "auto"
    revision: str = ""
    trust_remote_code: bool = False
    timeout: float = 30.0

    def __post_init__(self) -> None:
        """Check the numbers."""
        if not (math.isfinite(self.timeout) and self.timeout >= 1):
            raise UsageError(f"A document store with timeout={self.timeout}", expected="at least 1 second")
        if self.dim < 0:
            raise UsageError(f"A document store with dim={self.dim}", expected="at least 0")

    @property
    def passage_prompt(self) -> str:
        """No prompt, since the store already has the vectors of documents."""
        return "none"

    def encoder(self) -> Encoder:
        """Load the model.

        Raises:
            MissingPrerequisiteError: The extra ``dense`` is not installed.
            MissingResourceError: The model does not exist, or was not pulled.
        """
        from rerank.indexing.text_encoder import load_text_encoder
        from rerank.retrieval.base.model_folders import locate_retrieval_model

        return load_text_encoder(locate_retrieval_model(self.model), self)


def require_store_client(package: str, extra: str, *, model: bool = True) -> None:
    """Check that the client of a store can be imported, and what its model needs.

    Raises:
        MissingPrerequisiteError: A package cannot be imported.
    """
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


def check_store_dimension(place: str, found: int | None, model: str, size: int) -> None:
    """Check that vectors of a store have the dimension of the model; None if the store does not say it.

    Raises:
        UsageError: The dimensions differ.
    """
    if found is not None and found != size:
        raise UsageError(
            f"The vectors of {place} have {found} dimensions, those of the model {model!r} have {size}",
            expected="the model that computed the vectors",
            remedy="Set the option 'model', and 'dim' if vectors were shortened",
        )


def named_store_part(kind: str, name: str, known: Mapping[str, T], place: str) -> T:
    """Return the part of a store, such as a column, that an option names.

    Raises:
        UsageError: There is no such part.
    """
    if name not in known:
        listed = ", ".join(sorted(known)[:12]) or "none"
        raise UsageError(f"There is no {kind} {name!r} in {place}", expected=f"one of those that it has: {listed}")
    return known[name]


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreHit:
    """A document as a store returns it; values are not checked.

    Attributes:
        id: Its identifier.
        text: Its text; None if it has none.
        title: Its title; None if it has none.
        score: Its score; higher is better.
    """

    id: object
    text: object
    title: object
    score: float


class StoreSearch(Protocol):
    """A search of a store; the next argument after the query is the number of documents."""

    def __call__(self, query: str, depth: int) -> Sequence[StoreHit]:
        """Return the best documents, best first."""


@dataclass(frozen=True, slots=True)
class StoreRetriever:
    """A retriever over a document store.

    Attributes:
        name: Name of the first stage.
        place: The table, collection or index in messages, such as ``the table 'docs'``.
        connect: Opens a search for the queries of one call.
        deepest: Largest number of documents that the store returns.
    """

    name: str
    place: str
    connect: Callable[[], AbstractContextManager[StoreSearch]]
    deepest: int = 1_000_000

    def search(self, queries: Sequence[Query], k: int) -> Run:
        """Return up to ``k`` documents per query; a query without text gets an empty ranking.

        Raises:
            UsageError: ``k`` is below 1, or the store does not return as many.
            DataError: A document has no id or no text, or two have the same id.
            BackendError: The store cannot be reached, or does not answer in time.
        """
        if check_retrieval_depth(k) > self.deepest:
            raise UsageError(f"{k} documents per query from {self.place}", expected=f"at most {self.deepest}")
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
                    expected=f"an id and a text in every document, and the field in the option {missing!r}",
                )
        rows = [{"id": str(hit.id), "text": hit.text, "title": hit.title, "score": hit.score} for hit in hits]
        candidates = given_first_stage_candidates(rows)
        ids = [candidate.document.id for candidate in candidates]
        if len(set(ids)) < len(ids):
            duplicate = next(name for name in ids if ids.count(name) > 1)
            raise DataError(
                f"{self.place} contains the document {duplicate!r} more than once",
                expected="each id once",
                remedy="Set the option 'id' to a field that identifies a passage",
            )
        return [(candidate.document, candidate.score or 0.0) for candidate in candidates]
