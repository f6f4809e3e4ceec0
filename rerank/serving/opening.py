"""Functions that open what a server needs: its collection, and the ranking service with its model.

The model's settings are checked when the service is opened; the model is loaded when the server starts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rerank.collections import open_collection
from rerank.reranker import Reranker
from rerank.serving.fair_queue import FairQueue
from rerank.serving.ranking_service import RankingService
from rerank.serving.search_routes import CollectionSearch
from rerank.serving.server_metrics import ServerMetrics
from rerank.serving.settings import ServerSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedCollection:
    """The collection that the server searches.

    Attributes:
        selector: Selector of the collection.
        first_stage: Selector of the first stage.
    """

    selector: str
    first_stage: str = "bm25"

    def open(self) -> CollectionSearch:
        """Open the collection and its first stage; the index is built if it does not exist."""
        return CollectionSearch.open(open_collection(self.selector), self.first_stage)


def create_ranking_service(
    reranker: Reranker, settings: ServerSettings | None = None, ranker: Mapping[str, Any] | None = None
) -> RankingService:
    """Return a ranking service for a reranker, with its own queue and counters.

    Args:
        reranker: The reranker that ranks the documents.
        settings: Name and limits of the server; None for the defaults.
        ranker: Settings with which the reranker was opened; None if they are unknown.
    """
    settings = settings or ServerSettings()
    queue = FairQueue(settings.max_active, settings.max_waiting)
    return RankingService(
        reranker=reranker, settings=settings, queue=queue, metrics=ServerMetrics(queue), ranker=ranker or {}
    )


def open_ranking_service(
    ranker: Mapping[str, Any],
    settings: ServerSettings,
    *,
    uses_cache: bool = False,
    max_total_tokens: int | None = None,
) -> RankingService:
    """Open a reranker, and return a ranking service for it.

    Args:
        ranker: Settings of the ranker: keyword arguments of `Reranker.from_pretrained`.
        settings: Name and limits of the server.
        uses_cache: Whether replies to repeated requests are taken from the user's reply cache.
        max_total_tokens: Maximum number of tokens for all rankings together; None for no limit.
    """
    reranker = Reranker.from_pretrained(**ranker)
    if uses_cache or max_total_tokens is not None:
        reranker = reranker.with_log(cache=uses_cache, max_total_tokens=max_total_tokens)
    return create_ranking_service(reranker, settings, ranker)
