"""Operations on retrieved rankings: selection by query and depth, removal of excluded documents, further keys."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice

from rerank.collections.base.corpus import SupportsSource
from rerank.errors import DataError
from rerank.retrieval.base import Retriever
from rerank.retrieval.base.stages import check_retrieval_depth
from rerank.types import Query, Ranking, Run


def select_first_stage_lists(run: Run, queries: Sequence[Query], k: int, *, source: str) -> list[Ranking]:
    """Return, for each given query, the first ``k`` documents of its ranking in a run.

    The rankings contain the given query objects, since those of a run may lack texts.
    Queries without a ranking and rankings of other queries are omitted: a run may cover more or fewer queries than
    those given, and evaluation reports the number of missing ones.

    Args:
        run: The rankings.
        queries: The queries, which determine the order.
        k: The depth, at least 1.
        source: The name of the run in messages.

    Raises:
        DataError: The run contains no ranking for any of the queries.
        UsageError: ``k`` is below 1.
    """
    check_retrieval_depth(k)
    rankings = [replace(run[query.id].top(k), query=query) for query in queries if query.id in run]
    if queries and not rankings:
        raise DataError(
            f"{source} has a ranking for none of the {len(queries)} queries: "
            f"it contains the queries {_first_ids_of_retrieved_queries(run)}, "
            f"but the given queries are {_first_ids_of_retrieved_queries(query.id for query in queries)}",
            remedy="Check that the rankings and the queries belong to the same collection",
        )
    return rankings


def _first_ids_of_retrieved_queries(ids: Iterable[str]) -> str:
    first = [repr(query_id) for query_id in islice(ids, 4)]
    return ", ".join(first[:3]) + (" and more" if len(first) > 3 else "") or "(none)"


@dataclass(frozen=True, slots=True, kw_only=True)
class ExcludingRetriever:
    """A retriever that drops the documents excluded for a query; a dropped document does not take up a rank.

    Attributes:
        retriever: The wrapped retriever, which is asked for more documents to replace those dropped.
        excluded: Mapping from query id to the ids of the documents to drop.
        drops_self: Whether to apply BEIR's rule, by which a document with the query's own id is dropped.
    """

    retriever: Retriever
    excluded: Mapping[str, frozenset[str]] = field(default_factory=dict)
    drops_self: bool = False

    def search(self, queries: Sequence[Query], k: int) -> Run:
        """Return up to ``k`` documents per query, none of them excluded."""
        check_retrieval_depth(k)
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
    """A retriever that adds the further keys of documents, such as URLs, which indexes do not store.

    Attributes:
        retriever: The wrapped retriever.
        corpus: The corpus that it searches.
    """

    retriever: Retriever
    corpus: SupportsSource

    def search(self, queries: Sequence[Query], k: int) -> Run:
        """Return up to ``k`` documents per query."""
        run = self.retriever.search(queries, k)
        return Run((self._with_sources(ranking) for ranking in run.values()), name=run.name)

    def _with_sources(self, ranking: Ranking) -> Ranking:
        return replace(ranking, docs=tuple(map(self.corpus.with_source, ranking.docs)))
