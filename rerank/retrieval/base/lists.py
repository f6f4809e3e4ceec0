"""Operations on retrieved rankings: selection by query and depth, and removal of the query's own document."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import islice

from rerank.errors import DataError
from rerank.retrieval.base import Retriever
from rerank.retrieval.base.stages import check_retrieval_depth
from rerank.types import Query, Ranking, Run


def select_first_stage_lists(run: Run, queries: Sequence[Query], k: int, *, source: str) -> list[Ranking]:
    """Return the first ``k`` documents of the ranking of each given query; the results contain the given query objects.

    Queries without a ranking and rankings of other queries are omitted: a run may cover more or fewer queries than
    those given, and evaluation counts the missing ones.

    Args:
        run: The rankings.
        queries: The queries, which determine the order.
        k: The depth, at least 1.
        source: The name of the run in messages.

    Raises:
        DataError: The run has none of the queries.
        UsageError: ``k`` is below 1.
    """
    check_retrieval_depth(k)
    rankings = [replace(run[query.id].top(k), query=query) for query in queries if query.id in run]
    if queries and not rankings:
        raise DataError(
            f"{source} has a ranking for none of the {len(queries)} queries: "
            f"it has the queries {_first_ids_of_retrieved_queries(run)}, "
            f"the given ones are {_first_ids_of_retrieved_queries(query.id for query in queries)}",
            remedy="Check that both belong to the same collection",
        )
    return rankings


def _first_ids_of_retrieved_queries(ids: Iterable[str]) -> str:
    first = [repr(query_id) for query_id in islice(ids, 4)]
    return ", ".join(first[:3]) + (" and more" if len(first) > 3 else "") or "(none)"


@dataclass(frozen=True, slots=True)
class SelfExcludingRetriever:
    """A retriever that applies BEIR's rule: a document with the query's own id is dropped and does not take up a rank.

    Attributes:
        retriever: The wrapped retriever, which is searched for one more document.
    """

    retriever: Retriever

    def search(self, queries: Sequence[Query], k: int) -> Run:
        """Return up to ``k`` documents per query, none of them with the query's id."""
        run = self.retriever.search(queries, check_retrieval_depth(k) + 1)
        return Run((ranking.without(ranking.query.id).top(k) for ranking in run.values()), name=run.name)
