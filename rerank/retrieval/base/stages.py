"""Pipeline stages, and the operators that chain them: ``retriever % 100 >> reranker % 10``.

A `RunSource` turns queries into a run, and a `RunTransformer` turns a run into another run. ``>>`` chains stages, and
``% k`` keeps the first k documents of each ranking.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from rerank.errors import UsageError
from rerank.retrieval.base import Retriever
from rerank.retrieval.base.given_documents import check_first_stage_queries
from rerank.types import Query, Run

#: Number of documents that a first stage returns per query, unless ``% k`` sets another number.
DEPTH = 100


def check_retrieval_depth(k: int) -> int:
    """Return ``k``, the number of documents per query, after checking it.

    Raises:
        UsageError: ``k`` is below 1.
    """
    if k < 1:
        raise UsageError(f"The number of documents per query is {k}", expected="at least 1")
    return k


class RunTransformer(ABC):
    """A stage that reorders, truncates or extends the rankings of a run: a reranker, or several in sequence."""

    @abstractmethod
    def transform(self, run: Run) -> Run:
        """Return the new run; the input is not changed."""

    def __mod__(self, k: int) -> RunTransformer:
        """Return a stage that applies this stage and then keeps the first ``k`` documents of each ranking."""
        return _Sequence(self, _Top(check_retrieval_depth(k)))

    def __rshift__(self, after: RunTransformer) -> RunTransformer:
        """Return a stage that applies this stage and then ``after``."""
        return _Sequence(self, after) if isinstance(after, RunTransformer) else NotImplemented


class RunSource(ABC):
    """A stage that returns a run for queries: a first stage, alone or followed by rerankers."""

    @abstractmethod
    def __call__(self, queries: Sequence[Query]) -> Run:
        """Return the run for these queries."""

    def __mod__(self, k: int) -> RunSource:
        """Return a source that keeps the first ``k`` documents of each ranking."""
        return _Pipeline(self, _Top(check_retrieval_depth(k)))

    def __rshift__(self, after: RunTransformer) -> RunSource:
        """Return a source that applies the stage ``after`` to the run of this source."""
        return _Pipeline(self, after) if isinstance(after, RunTransformer) else NotImplemented


@dataclass(frozen=True, slots=True)
class RetrieverSource(RunSource):
    """A retriever as a pipeline source; ``% k`` sets the search depth to ``k`` instead of truncating a longer ranking.

    Attributes:
        retriever: The retriever to search with.
        k: Number of documents per query.
    """

    retriever: Retriever
    k: int = DEPTH

    def search(self, queries: Sequence[Query], k: int) -> Run:
        """Return up to ``k`` documents per query, so that a source can be used as a retriever."""
        return self.retriever.search(queries, check_retrieval_depth(k))

    def __call__(self, queries: Sequence[Query]) -> Run:
        """Return up to ``self.k`` documents per query.

        Raises:
            UsageError: A query is not a `Query`.
        """
        check_first_stage_queries(queries)
        return self.search(queries, self.k)

    def __mod__(self, k: int) -> RetrieverSource:
        """Return the same source with depth ``k``."""
        return RetrieverSource(self.retriever, check_retrieval_depth(k))


@dataclass(frozen=True, slots=True)
class _Top(RunTransformer):
    k: int

    def transform(self, run: Run) -> Run:
        return run.top(self.k)


@dataclass(frozen=True, slots=True)
class _Sequence(RunTransformer):
    first: RunTransformer
    second: RunTransformer

    def transform(self, run: Run) -> Run:
        return self.second.transform(self.first.transform(run))


@dataclass(frozen=True, slots=True)
class _Pipeline(RunSource):
    source: RunSource
    after: RunTransformer

    def __call__(self, queries: Sequence[Query]) -> Run:
        return self.after.transform(self.source(queries))
