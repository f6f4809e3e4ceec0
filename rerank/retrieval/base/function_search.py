"""A first stage that calls a Python function: ``Search.of(function) % 100 >> reranker``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from rerank.retrieval.base.given_documents import (
    Candidate,
    DocumentLike,
    check_first_stage_queries,
    given_first_stage_candidates,
    given_first_stage_ranking,
)
from rerank.retrieval.base.stages import DEPTH, RunSource, check_retrieval_depth
from rerank.types import Document, Query, Ranking, Run

#: A search function, which takes the text of a query and returns documents, best first, with or without scores.
SearchFunction = Callable[[str], Iterable[DocumentLike]]


@dataclass(frozen=True, slots=True)
class Search(RunSource):
    """A pipeline source that calls a function to find the documents for a query.

    Attributes:
        function: Function that takes the text of a query and returns documents, best first. Each document is a text, a
            `Document` or a mapping. If all documents have a ``score``, they are sorted by score. A document without an
            id receives an id made from the query id and the document's position.
        k: Maximum number of documents to keep per query.
    """

    function: SearchFunction
    k: int = DEPTH

    @classmethod
    def of(cls, function: SearchFunction) -> Search:
        """Return a pipeline source that calls ``function`` for each query."""
        return cls(function)

    def __call__(self, queries: Sequence[Query]) -> Run:
        """Call the function for each query, and return a run with the results.

        Raises:
            UsageError: The function does not return a list, or a query is not a `Query`.
            DataError: A document has no text, or two documents have the same id.
        """
        check_first_stage_queries(queries)
        return Run((self._search(query) for query in queries), name=getattr(self.function, "__name__", "search"))

    def __mod__(self, k: int) -> Search:
        """Return a source that keeps only the first ``k`` documents per query."""
        return replace(self, k=check_retrieval_depth(k))

    def _search(self, query: Query) -> Ranking:
        candidates = given_first_stage_candidates(self.function(query.text))
        ranking = given_first_stage_ranking(query, candidates)
        docs = tuple(
            _retrieved_document_with_unique_id(query, int(doc.id), candidates[int(doc.id)]) for doc in ranking.docs
        )
        return replace(ranking, docs=docs).top(self.k)


def _retrieved_document_with_unique_id(query: Query, position: int, candidate: Candidate) -> Document:
    """Return the document of a candidate; a document without an id receives an id that is unique in the run."""
    if candidate.has_id:
        return candidate.document
    return replace(candidate.document, id=f"{query.id}:{position}")
