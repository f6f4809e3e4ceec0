"""Rankings for the playground, the server's page for trying methods, with the model's prompts and completions."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property

from rerank.collections import Collection, fetch_documents
from rerank.errors import RerankError, UnknownNameError, UsageError
from rerank.judges.attention import Attention
from rerank.methods import method_names, open_method
from rerank.reranker import Reranker
from rerank.serving.ranking_service import RankedQuestion, RankingService
from rerank.serving.search_routes import CollectionSearch, with_candidates
from rerank.store import NoLog, log_calls
from rerank.tasks import Reply, Request
from rerank.tasks.dialects.question import RerankQuestion, SpanSettings
from rerank.types import Query, Ranking

#: Maximum number of calls of a ranking whose prompts and completions are kept and shown.
_SHOWN_CALLS = 20


class CallRecorder(NoLog):
    """In-memory log of the first calls of each ranking in progress, keyed by the query object.

    Ids cannot distinguish the queries: all queries have the same id, since random orders of some methods depend on it.
    """

    def __init__(self) -> None:
        """Create an empty log."""
        self._calls: dict[int, list[tuple[Request, Reply]]] = {}

    @contextmanager
    def record(self, query: Query) -> Iterator[list[tuple[Request, Reply]]]:
        """Collect the calls for a query during the ``with`` block."""
        calls = self._calls.setdefault(id(query), [])
        try:
            yield calls
        finally:
            del self._calls[id(query)]

    def put(self, rows: Sequence[tuple[str, Request, Reply]], model: str) -> list[None]:
        """Keep the first calls for each query that is being recorded, and drop the other calls."""
        for _, request, reply in rows:
            calls = self._calls.get(id(request.window.query), [])
            if len(calls) < _SHOWN_CALLS:
                calls.append((request, reply))
        return super().put(rows, model)


@dataclass(frozen=True, slots=True, kw_only=True)
class PlaygroundRanking:
    """A ranking with all information that the playground shows.

    Attributes:
        ranked: The ranking; the ``corpus_id`` of each hit is its position in ``candidates``.
        candidates: The documents in their order before reranking.
        calls: The first requests to the model and their replies.
        seconds: Wall-clock time of the ranking, in seconds.
    """

    ranked: RankedQuestion
    candidates: Ranking
    calls: Sequence[tuple[Request, Reply]]
    seconds: float


@dataclass(frozen=True, kw_only=True)
class PlaygroundService:
    """Service that ranks with any method that the server's model supports.

    Attributes:
        service: Ranking service with the server's own method; its limits, queue and counters apply to all methods.
        search: Search over a collection; None if the server has no collection.
    """

    service: RankingService = field(repr=False)
    search: CollectionSearch | None = None
    _recorder: CallRecorder = field(default_factory=CallRecorder, repr=False)

    @cached_property
    def methods(self) -> dict[str, Reranker]:
        """Rerankers with the server's model, keyed by method name. The server's own method is first, as ``""``."""
        own = self.service.reranker
        rerankers = {"": own}
        for name in method_names():
            try:
                reranker = Reranker.from_backend(own.backend, method=name)
            except RerankError:  # the model does not support the judge, or has no list of attention heads
                continue
            if not reranker.judge.template.pictures:  # the playground's passages are texts
                rerankers[name] = reranker
        backend = log_calls(own.backend, self._recorder)
        return {name: replace(reranker, backend=backend) for name, reranker in rerankers.items()}

    def describe_methods(self) -> list[dict[str, object]]:
        """Return the name, label and summary of each method, and whether it can show the attention of each word."""
        rows: list[dict[str, object]] = []
        for name, reranker in self.methods.items():
            summary = open_method(name).summary if name else "the method that this server uses for other requests"
            label = name or f"{reranker.name} (served)"
            rows.append(
                {"name": name, "label": label, "summary": summary, "heat": isinstance(reranker.judge, Attention)}
            )
        return rows

    async def candidates(self, query: Query, ids: Sequence[str] | None, depth: int) -> Ranking:
        """Return up to ``depth`` documents: those with the given ids or, if ``ids`` is None, a search's results."""
        if self.search is None:
            raise UsageError(
                "The server has no collection",
                expected="the passages in the request",
                remedy="Send the passages, or start the server with --collection",
            )
        if ids is None:
            return replace(await self.search.search(query.text, depth), query=query)
        shown = list(dict.fromkeys(ids))[:depth]
        found = await asyncio.to_thread(fetch_documents, self.search.corpus, shown)
        return Ranking(query, tuple(found[doc_id] for doc_id in shown))

    async def query_text(self, query_id: str) -> str:
        """Return the text of a query of the collection, or an empty string if there is no such query or collection."""
        corpus = None if self.search is None else self.search.corpus
        queries = await asyncio.to_thread(corpus.queries) if isinstance(corpus, Collection) else []
        return next((query.text for query in queries if query.id == query_id), "")

    async def rank(
        self, query: Query, find: Callable[[Query], Awaitable[Ranking]], method: str, client: str, *, heat: bool
    ) -> PlaygroundRanking:
        """Rank documents with one of the methods.

        Args:
            query: The query.
            find: Function that returns the documents to rank; called when it is the client's turn.
            method: One of the names in `methods`. Names with options are not accepted, since some options name files.
            client: Name of the client in the queue.
            heat: Whether to compute the attention of each word, with one more request to the model.
        """
        methods = await asyncio.to_thread(lambda: self.methods)
        if method not in methods:
            raise UnknownNameError("method", method, list(methods))
        query, started = replace(query), time.monotonic()
        candidates = Ranking(query, ())

        async def retrieve(question: RerankQuestion) -> RerankQuestion:
            nonlocal candidates
            candidates = await find(query)
            return with_candidates(question, candidates)

        question = RerankQuestion(
            query=query.text,
            documents=[],
            spans=SpanSettings(unit="word", threshold=None) if heat else None,
        )
        service = replace(self.service, reranker=methods[method])
        with self._recorder.record(query) as calls:
            ranked = await service.rank(question, client, query=query, retrieve=retrieve)
            return PlaygroundRanking(
                ranked=ranked, candidates=candidates, calls=[*calls], seconds=time.monotonic() - started
            )
