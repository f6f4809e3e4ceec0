"""Pipeline stages, and the operators that chain them: ``retriever % 100 >> reranker % 10``.

A `RunSource` turns queries into a run, and a `RunTransformer` turns a run into another run. ``>>`` chains stages, and
``% k`` keeps the first k documents of each ranking.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from rerank.collections.base import SupportsSource
from rerank.errors import UsageError
from rerank.retrieval.base import Retriever
from rerank.retrieval.base.given_documents import (
    DocumentLike,
    check_first_stage_queries,
    given_first_stage_candidates,
    given_first_stage_ranking,
)
from rerank.tasks.tracing import retrieve_traced
from rerank.types import Query, Ranking, Run

#: Number of documents that a first stage returns per query, unless ``% k`` sets another number.
DEPTH = 100


def check_depth(k: int) -> int:
    """Return ``k``, the number of documents per query, after checking it."""
    if k < 1:
        raise UsageError(f"The number of documents per query is {k}", expected="at least 1")
    return k


class RunTransformer(ABC):
    """A stage that reorders, truncates or extends the rankings of a run: a reranker, or several in sequence."""

    @abstractmethod
    def transform(self, run: Run) -> Run:
        """Return the new run; the input is not changed."""

    def __mod__(self, k: int) -> RunTransformer:
        return _Sequence(self, _Top(check_depth(k)))

    def __rshift__(self, after: RunTransformer) -> RunTransformer:
        return _Sequence(self, after) if isinstance(after, RunTransformer) else NotImplemented


class RunSource(ABC):
    """A stage that returns a run for queries: a first stage, alone or followed by rerankers."""

    @abstractmethod
    def __call__(self, queries: Sequence[Query]) -> Run:
        """Return the run for these queries."""

    def __mod__(self, k: int) -> RunSource:
        return _Pipeline(self, _Top(check_depth(k)))

    def __rshift__(self, after: RunTransformer) -> RunSource:
        return _Pipeline(self, after) if isinstance(after, RunTransformer) else NotImplemented


@dataclass(frozen=True, slots=True)
class RetrieverSource(RunSource):
    """A retriever as a pipeline source; ``% k`` sets the search depth to ``k`` instead of truncating a ranking."""

    retriever: Retriever
    k: int = DEPTH  # number of documents per query

    def search(self, queries: Sequence[Query], k: int) -> Run:
        """Return up to ``k`` documents per query, so that a source can be used as a retriever."""
        return retrieve_traced(self.retriever.search, queries, check_depth(k))

    def __call__(self, queries: Sequence[Query]) -> Run:
        """Return up to ``self.k`` documents per query."""
        check_first_stage_queries(queries)
        return self.search(queries, self.k)

    def __mod__(self, k: int) -> RetrieverSource:
        return RetrieverSource(self.retriever, check_depth(k))


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


#: A search function, which takes the text of a query and returns documents, best first, with or without scores.
SearchFunction = Callable[[str], Iterable[DocumentLike]]


@dataclass(frozen=True, slots=True)
class Search(RunSource):
    """A pipeline source that calls a function to find the documents for a query."""

    #: Function that takes the text of a query and returns documents, best first. Each document is a text, a `Document`
    #: or a mapping. If all documents have a ``score``, they are sorted by score. A document without an id receives an
    #: id made from the query id and the document's position.
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
        return retrieve_traced(self._search, queries, self.k)

    def _search(self, queries: Sequence[Query], k: int) -> Run:
        rankings = []
        for query in queries:
            candidates = given_first_stage_candidates(self.function(query.text))
            ranking = given_first_stage_ranking(query, candidates)
            own = [(doc.id, candidates[int(doc.id)]) for doc in ranking.docs]
            # a document without an id receives an id that is unique in the run
            docs = (c.document if c.has_id else replace(c.document, id=f"{query.id}:{n}") for n, c in own)
            rankings.append(replace(ranking, docs=tuple(docs)).top(k))
        return Run(rankings, name=getattr(self.function, "__name__", "search"))

    def __mod__(self, k: int) -> Search:
        return replace(self, k=check_depth(k))


@dataclass(frozen=True, slots=True, kw_only=True)
class ExcludingRetriever:
    """A retriever that drops the documents excluded for a query; a dropped document does not take up a rank."""

    retriever: Retriever
    #: Mapping from query id to the ids of the documents to drop.
    excluded: Mapping[str, frozenset[str]] = field(default_factory=dict)
    drops_self: bool = False

    def search(self, queries: Sequence[Query], k: int) -> Run:
        check_depth(k)
        # Thousands of documents may be excluded, but few of them rank high: only rankings that become too short are
        # retrieved again at a greater depth.
        most = self._most_dropped(queries)
        run = self.retriever.search(queries, k + min(most, k))
        left = {query_id: self._keep_allowed(ranking) for query_id, ranking in run.items()}
        short = [q for q in queries if q.id in left and len(left[q.id]) < k and len(run[q.id]) == k + min(most, k)]
        if short and most > k:
            deeper = self.retriever.search(short, k + self._most_dropped(short))
            left |= {query_id: self._keep_allowed(ranking) for query_id, ranking in deeper.items()}
        return Run((ranking.top(k) for ranking in left.values()), name=run.name)

    def _most_dropped(self, queries: Iterable[Query]) -> int:
        return self.drops_self + max((len(self.excluded.get(query.id, ())) for query in queries), default=0)

    def _keep_allowed(self, ranking: Ranking) -> Ranking:
        own = (ranking.query.id,) if self.drops_self else ()
        return ranking.without(*own, *self.excluded.get(ranking.query.id, ()))


@dataclass(frozen=True, slots=True)
class SourceRetriever:
    """A retriever that adds the further keys of documents, such as URLs, which indexes do not store."""

    retriever: Retriever
    corpus: SupportsSource

    def search(self, queries: Sequence[Query], k: int) -> Run:
        run = self.retriever.search(queries, k)
        with_source = self.corpus.with_source
        return Run((replace(r, docs=tuple(map(with_source, r.docs))) for r in run.values()), name=run.name)
