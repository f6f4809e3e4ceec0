"""Opens the application from settings: the model is checked now and loaded when the server starts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI

from rerank.collections import open_collection
from rerank.reranker import Reranker
from rerank.serving.app import create_server_app
from rerank.serving.fair_queue import FairQueue
from rerank.serving.ranking_service import RankingService
from rerank.serving.search_routes import CollectionSearch
from rerank.serving.server_keys import ServerKeys
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


def create_ranking_service(reranker: Reranker, settings: ServerSettings | None = None) -> RankingService:
    """Return a service for a reranker, with a queue and counters of its own."""
    settings = settings or ServerSettings()
    queue = FairQueue(settings.max_active, settings.max_waiting)
    return RankingService(reranker=reranker, settings=settings, queue=queue, metrics=ServerMetrics(queue))


def open_server_app(
    ranker: Mapping[str, Any],
    settings: ServerSettings,
    keys: ServerKeys,
    *,
    collection: ServedCollection | None = None,
    uses_cache: bool = False,
    max_total_tokens: int | None = None,
) -> FastAPI:
    """Open the reranker and the collection, and return the application.

    Args:
        ranker: Settings of the ranker, as for `Reranker.from_pretrained`.
        settings: Name and limits of the server.
        keys: The keys that clients may use.
        collection: The collection to search; None for no search endpoint.
        uses_cache: Whether repeated requests are answered from the user's cache of replies.
        max_total_tokens: Cap on the tokens of all rankings together; None for no cap.

    Raises:
        RerankError: A setting is invalid, or the model, the collection or a package does not exist.
    """
    reranker = Reranker.from_pretrained(**ranker)
    if uses_cache or max_total_tokens is not None:
        reranker = reranker.with_log(cache=uses_cache, max_total_tokens=max_total_tokens)
    search = None
    if collection is not None:
        search = CollectionSearch.open(open_collection(collection.selector), collection.first_stage)
    return create_server_app(create_ranking_service(reranker, settings), keys, search=search)
