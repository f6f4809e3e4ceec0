"""Rankings for the playground: by any method that the model supports, with the model's prompts and completions."""

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
    """A log in memory that keeps the first calls of rankings in progress, by their query objects.

    Ids do not tell queries apart: all are the same, since random orders of some methods depend on them.
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
        """Keep the first calls for queries that are recorded; drop the others."""
        for _, request, reply in rows:
            calls = self._calls.get(id(request.window.query), [])
            if len(calls) < _SHOWN_CALLS:
                calls.append((request, reply))
        return super().put(rows, model)


@dataclass(frozen=True, slots=True, kw_only=True)
class PlaygroundRanking:
    """A ranking with everything that the playground shows.

    Attributes:
        ranked: The ranking; ``corpus_id`` of its hits are positions in ``candidates``.
        candidates: The documents before the ranking.
        calls: The first requests to the model and their replies.
        seconds: Wall-clock time.
    """

    ranked: RankedQuestion
    candidates: Ranking
    calls: Sequence[tuple[Request, Reply]]
    seconds: float


@dataclass(frozen=True, kw_only=True)
class PlaygroundService:
    """Ranks with any method that the model of a service supports; limits, queue and counters are the service's.

    Attributes:
        service: The service of the server's own method.
        search: Searches a collection; None if there is none.
    """

    service: RankingService = field(repr=False)
    search: CollectionSearch | None = None
    _recorder: CallRecorder = field(default_factory=CallRecorder, repr=False)

    @cached_property
    def methods(self) -> dict[str, Reranker]:
        """The rerankers by the names of their methods. The server's own method is first, with the name ``""``."""
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
        """Return the name, a label and a summary of each method, and whether it shows which words drew attention."""
        rows: list[dict[str, object]] = []
        for name, reranker in self.methods.items():
            summary = open_method(name).summary if name else "as this server answers other requests"
            label = name or f"{reranker.name} (served)"
            rows.append(
                {"name": name, "label": label, "summary": summary, "heat": isinstance(reranker.judge, Attention)}
            )
        return rows

    async def candidates(self, query: Query, ids: Sequence[str] | None, depth: int) -> Ranking:
        """Return documents of the collection: those with the given ids, or else those that the first stage finds.

        Raises:
            UsageError: The server has no collection.
            DataError: The collection does not have an id.
        """
        if self.search is None:
            raise UsageError("The server has no collection", expected="passages", remedy="Start it with --collection")
        if ids is None:
            return replace(await self.search.search(query.text, depth), query=query)
        shown = list(dict.fromkeys(ids))[:depth]
        found = await asyncio.to_thread(fetch_documents, self.search.corpus, shown)
        return Ranking(query, tuple(found[doc_id] for doc_id in shown))

    async def query_text(self, query_id: str) -> str:
        """Return the text of a query of the collection, or the empty string if it has no such query."""
        corpus = None if self.search is None else self.search.corpus
        queries = await asyncio.to_thread(corpus.queries) if isinstance(corpus, Collection) else []
        return next((query.text for query in queries if query.id == query_id), "")

    async def rank(
        self, query: Query, find: Callable[[Query], Awaitable[Ranking]], method: str, client: str, *, heat: bool
    ) -> PlaygroundRanking:
        """Rank documents.

        Args:
            query: The query.
            find: Returns the documents to rank, once the client has its turn.
            method: One of `methods`. Options are not accepted, since some name files.
            client: Name of the client, for fair turns.
            heat: Whether to find which words drew attention, by one more request.

        Raises:
            UnknownNameError: There is no such method.
            The errors of `RankingService.rank`.
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
