"""What happens to lists apart from how they are found: cut from ready ones, and rid of the query itself."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import islice

from rerank.errors import DataError
from rerank.retrieval.base import Retriever
from rerank.retrieval.base.stages import checked_depth
from rerank.types import Query, Ranking, Run


def lists_of(run: Run, queries: Sequence[Query], k: int, *, source: str) -> list[Ranking]:
    """Return the first ``k`` documents of each asked query's list, under the query as asked.

    A query without a list is left out, and lists of queries that were not asked are left aside: lists may cover more
    or less than the queries at hand, and evaluation counts what is missing.

    Args:
        run: The lists.
        queries: What is asked, which gives the order.
        k: How deep, at least 1.
        source: What to call the lists in a message.

    Raises:
        DataError: There is a list for none of the queries.
        UsageError: ``k`` is below 1.
    """
    checked_depth(k)
    found = [replace(run[query.id].top(k), query=query) for query in queries if query.id in run]
    if queries and not found:
        raise DataError(
            f"{source} has a list for none of the {len(queries)} queries: it has {_some(run)}, "
            f"asked were {_some(query.id for query in queries)}",
            remedy="Check that both belong to the same collection",
        )
    return found


def _some(ids: Iterable[str]) -> str:
    first = [repr(query_id) for query_id in islice(ids, 4)]
    return ", ".join(first[:3]) + (" and more" if len(first) > 3 else "") or "no list at all"


@dataclass(frozen=True, slots=True)
class WithoutSelf:
    """A retriever under BEIR's rule: a document with the query's own id is dropped and costs no place.

    Attributes:
        retriever: What is searched, one document deeper.
    """

    retriever: Retriever

    def search(self, queries: Sequence[Query], k: int) -> Run:
        """Return up to ``k`` documents for each query, none of them with the query's id."""
        found = self.retriever.search(queries, checked_depth(k) + 1)
        return Run((ranking.without(ranking.query.id).top(k) for ranking in found.values()), name=found.name)
