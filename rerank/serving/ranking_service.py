"""Service that answers parsed rerank requests, with limits, queue, metrics, relevance scores, spans and warnings."""

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from rerank.errors import RerankError, ensure, error_repr
from rerank.judges import FAILURES
from rerank.reranker import Hits, Reranker
from rerank.reranker.hits import describe_unit_scores
from rerank.serving.errors import ApiError
from rerank.serving.fair_queue import FairQueue
from rerank.serving.pictures import load_pictures
from rerank.serving.settings import ServerSettings
from rerank.tasks.dialects.question import EvidenceOfDocument, RankedDocument, RerankAnswer, RerankQuestion
from rerank.tasks.requests import Usage
from rerank.types import Query

#: Upper bounds of the histogram of request times, in seconds.
_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)

#: Function that adds the documents to a question when it is its turn.
Retrieve = Callable[[RerankQuestion], Awaitable[RerankQuestion]]

#: Seconds left for a request whose deadline passed while it waited; the driver then keeps the input order immediately.
_NO_TIME = 1e-9

#: Number of characters that are counted together, and of the pieces of longer texts.
_COUNTED = 1 << 18

#: Warning in answers whose deadline left no time for evidence spans.
_LATE_SPANS = "relevant_spans is absent: the deadline has passed"


class ServerMetrics:
    """Counters and timings. Every accepted request is counted once when it arrives and once when it ends."""

    def __init__(self, queue: FairQueue) -> None:
        self._registry = registry = CollectorRegistry()
        self._accepted = Counter("rerank_requests_accepted", "Requests accepted", ["path"], registry=registry)
        self._ended = Counter(
            "rerank_requests_ended", "Requests ended, by status or 'cancelled'", ["path", "status"], registry=registry
        )
        self._seconds = Histogram(
            "rerank_request_seconds", "Seconds per request", ["path"], buckets=_SECONDS, registry=registry
        )
        self._documents = Counter("rerank_documents", "Documents ranked", registry=registry)
        self._degraded = Counter("rerank_answers_degraded", "Answers with failed or late windows", registry=registry)
        self._tokens = Counter("rerank_tokens", "Tokens of the model", ["kind"], registry=registry)
        Gauge("rerank_requests_waiting", "Waiting requests", registry=registry).set_function(lambda: queue.waiting)
        Gauge("rerank_requests_active", "Rankings in progress", registry=registry).set_function(lambda: queue.active)

    @contextmanager
    def request(self, path: str) -> Iterator[list[str]]:
        """Count and time one request. The caller appends its status to the yielded list, unless it is cancelled."""
        status: list[str] = []
        started = time.monotonic()
        self._accepted.labels(path).inc()
        try:
            yield status
        finally:
            self._ended.labels(path, status[0] if status else "cancelled").inc()
            self._seconds.labels(path).observe(time.monotonic() - started)

    def count_ranking(self, usage: Usage, *, documents: int, is_degraded: bool) -> None:
        """Count documents and tokens of one ranking, and whether windows failed or missed the deadline."""
        self._documents.inc(documents)
        self._degraded.inc(is_degraded)
        kinds = {"prompt": usage.tokens_in, "completion": usage.tokens_out, "cached": usage.tokens_cached}
        for kind, count in kinds.items():
            self._tokens.labels(kind).inc(count)

    def exposition(self) -> bytes:
        return generate_latest(self._registry)


@dataclass(frozen=True, slots=True, kw_only=True)
class RankedQuestion:
    """Ranking of the documents of a question (a parsed rerank request)."""

    question: RerankQuestion  #: The question, with query and documents truncated as it asks.
    hits: Hits
    #: Mapping from the ``corpus_id`` of each hit to the evidence spans of its document; None without spans.
    spans: Mapping[int, tuple[EvidenceOfDocument, ...]] | None
    #: Warnings about fields of the request that have no effect, failed or mended windows, a missed deadline and missing
    #: spans.
    warnings: Sequence[str]

    def scores(self) -> tuple[list[float], list[str]]:
        """Return the score of each hit on the scale that the client asked for, and warnings about the scores."""
        warnings = describe_unit_scores(self.hits)
        if self.question.scale == "logit":
            logits = [hit.score for hit in self.hits if hit.score is not None]
            if len(logits) == len(self.hits):
                return logits, []
            warnings.append("The scores are not raw, because some documents have none")
        return [hit.unit_score for hit in self.hits], warnings


@dataclass(frozen=True, slots=True, kw_only=True)
class RankingService:
    """Service that ranks documents for the clients of the server."""

    reranker: Reranker
    settings: ServerSettings
    queue: FairQueue
    metrics: ServerMetrics = field(repr=False)
    #: Settings with which the reranker was opened, for examples of calls; empty if they are unknown.
    ranker: Mapping[str, Any] = field(default_factory=dict, repr=False)

    async def answer(self, question: RerankQuestion, client: str, *, retrieve: Retrieve | None = None) -> RerankAnswer:
        """Rank the documents of a question, as `rank` does, and return the answer with relevance scores."""
        ranked = await self.rank(question, client, retrieve=retrieve)
        hits, spans = ranked.hits, ranked.spans
        scores, score_warnings = ranked.scores()
        return RerankAnswer(
            id=f"rerank-{uuid.uuid4().hex}",
            model=self.settings.name,
            question=ranked.question,
            results=[
                RankedDocument(
                    index=hit.corpus_id, relevance_score=score, spans=None if spans is None else spans[hit.corpus_id]
                )
                for hit, score in zip(hits, scores, strict=True)
            ],
            tokens_in=hits.usage.tokens_in,
            tokens_out=hits.usage.tokens_out,
            tokens_cached=hits.usage.tokens_cached,
            warnings=[*ranked.warnings, *score_warnings],
        )

    async def rank(
        self, question: RerankQuestion, client: str, *, query: Query | None = None, retrieve: Retrieve | None = None
    ) -> RankedQuestion:
        """Rank the documents of a question; ``retrieve`` adds them at the question's turn, within its deadline."""
        seconds = self.settings.deadline if question.deadline is None else question.deadline
        deadline = None if seconds is None else time.monotonic() + seconds
        question = await self._within_limits(question)
        fused = question.scores is not None or retrieve is not None
        has_logits = self.reranker.has_unit_scores(with_first_stage=fused, logits=True)
        if question.scale == "logit if known":
            question = replace(question, scale="logit" if has_logits else "unit")
        if question.scale == "logit" and not has_logits:
            found = "The request asks for raw scores, but the method has no logits that alone determine the order"
            raise ApiError(422, f"{found}; expected raw_scores: false")
        if question.pictures:
            if not self.reranker.judge.template.pictures:
                raise ApiError(
                    422, "The request has pictures, but the model ranks texts only; expected documents with text"
                )
            question = replace(question, pictures=await load_pictures(question.pictures, self.settings))
        async with self.queue.slot(client):
            if retrieve is not None:
                question = await self._within_limits(await retrieve(question))
            hits = await self._rank(question, deadline, query)
            if not question.truncates and hits.cut.passages:
                found = f"{hits.cut.passages} of the documents are longer than the model reads"
                raise ApiError(413, f"{found}; expected shorter ones, or a request that lets them be truncated")
            spans, warnings = await self._find_spans(question, hits, deadline)
        is_degraded = hits.expired or any(hits.windows.get(status) for status in FAILURES)
        self.metrics.count_ranking(hits.usage, documents=len(question.documents), is_degraded=is_degraded)
        notes = [*question.warnings]
        if question.model not in ("", self.settings.name):
            notes.insert(
                0, f"The model {error_repr(question.model, 100)} is not served here; {self.settings.name!r} answered"
            )
        if retrieve is not None and not question.documents:
            notes.append("The first stage found no document for this query")
        mended = {status: n for status, n in hits.windows.items() if n and status != "ok" and status not in FAILURES}
        counts = ", ".join(f"{n} {status}" for status, n in mended.items())
        notes += hits.notes
        if mended:
            notes.append(f"Replies were malformed and mended: {counts} of {sum(hits.windows.values())} windows")
        warnings = [*notes, *warnings]
        return RankedQuestion(question=question, hits=hits, spans=spans, warnings=warnings)

    async def _within_limits(self, question: RerankQuestion) -> RerankQuestion:
        """Check the limits, and return the question with query and documents truncated as it asks."""
        count = len(question.documents)
        self.check_documents(count)
        windows = self.reranker.count_windows(count, question.top_n)
        if windows > self.settings.max_windows:
            raise ApiError(
                413,
                f"The method judges up to {windows} windows of {count} documents; expected at most "
                f"{self.settings.max_windows}. Send fewer documents, or use a method with fewer windows",
            )
        if question.scores is not None and len(question.scores) != count:
            raise ApiError(
                422, f"The request has {len(question.scores)} scores for {count} documents; expected one per document"
            )
        if question.max_query_tokens or question.max_pair_tokens or question.max_document_tokens:
            question = await asyncio.to_thread(self._truncated, question)
        await self.check_tokens([question.query, *question.documents])
        return question

    def _truncated(self, question: RerankQuestion) -> RerankQuestion:
        tokens, most = self.reranker.backend.tokens, self.settings.max_request_tokens
        # Tokenizers cannot truncate to a number that exceeds a machine word.
        query = tokens.cut(question.query, min(question.max_query_tokens or most, most))
        limit = min(question.max_document_tokens or most, most)
        if question.max_pair_tokens:
            length = tokens.lengths([query])[0]
            limit = min(limit, question.max_pair_tokens - length)
            ensure(
                limit > 0,
                f"truncate_prompt_tokens is {question.max_pair_tokens}, and the query has {length} tokens",
                expected="more, for query and document together",
                remedy="Set max_tokens_per_query",
            )
        return replace(question, query=query, documents=[tokens.cut(text, limit) for text in question.documents])

    def check_documents(self, count: int) -> None:
        if count > self.settings.max_documents:
            raise ApiError(413, f"The request has {count} documents; expected at most {self.settings.max_documents}")

    async def check_tokens(self, texts: Sequence[str]) -> None:
        """Check the number of tokens of a request; large ones are counted in a thread, so that others do not wait."""
        most = self.settings.max_request_tokens
        # A token has at least one byte and a character has at most four, so most requests need no exact count.
        if 4 * sum(map(len, texts)) > most:
            found = await asyncio.to_thread(self._count_tokens, texts, most)
            if found > most:
                raise ApiError(413, f"The request has {found} tokens or more; expected at most {most}")

    def _count_tokens(self, texts: Sequence[str], most: int) -> int:
        """Return the number of tokens of texts; counting stops above ``most``. Long texts are counted in pieces."""
        found = characters = 0
        batch: list[str] = []
        for piece in (text[start : start + _COUNTED] for text in texts for start in range(0, len(text), _COUNTED)):
            batch.append(piece)
            characters += len(piece)
            if characters >= _COUNTED:
                found += sum(self.reranker.backend.tokens.lengths(batch))
                if found > most:
                    return found
                characters, batch = 0, []
        return found + sum(self.reranker.backend.tokens.lengths(batch))

    async def _rank(self, question: RerankQuestion, deadline: float | None, query: Query | None) -> Hits:
        hits = await self.reranker.arank(
            query or question.query,
            [{"text": text, "image": image} for text, image in zip(question.documents, question.pictures, strict=True)]
            if question.pictures
            else question.documents,
            scores=question.scores,
            top_k=question.top_n,
            threshold=question.threshold,
            instruction=question.instruction or None,
            deadline=None if deadline is None else max(_NO_TIME, deadline - time.monotonic()),
            on_failure="keep",
        )
        failed = hits.windows.get("error", 0)
        if failed and failed == sum(hits.windows.values()) and not hits.expired:
            raise ApiError(503, f"The model answered no request. {' '.join(hits.notes)}".strip())
        return hits

    async def _find_spans(
        self, question: RerankQuestion, hits: Hits, deadline: float | None
    ) -> tuple[Mapping[int, tuple[EvidenceOfDocument, ...]] | None, list[str]]:
        """Return a mapping from ``corpus_id`` to evidence spans, or None, and warnings about missing spans."""
        if question.spans is None or not hits:
            return None, []
        shown = sorted(hit.corpus_id for hit in hits)
        remaining = None if deadline is None else deadline - time.monotonic()
        if remaining is not None and remaining <= 0:
            return None, [_LATE_SPANS]
        try:
            work = asyncio.to_thread(
                self.reranker.evidence,
                question.query,
                [question.documents[position] for position in shown],
                unit=question.spans.unit,
                threshold=question.spans.threshold,
                max_spans=question.spans.max_spans,
                usage=hits.usage,
            )
            found = await asyncio.wait_for(work, remaining)
        except TimeoutError:
            return None, [_LATE_SPANS]
        except RerankError as error:
            return None, [f"relevant_spans is absent: {error}"]
        return {
            position: tuple(EvidenceOfDocument(start=span.start, end=span.end, score=span.score) for span in spans)
            for position, spans in zip(shown, found, strict=True)
        }, []


def create_ranking_service(
    reranker: Reranker, settings: ServerSettings | None = None, ranker: Mapping[str, Any] | None = None
) -> RankingService:
    """Return a ranking service for an open reranker, with its own queue and counters."""
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
    """Open a reranker, whose model is loaded when the server starts, and return a ranking service for it."""
    reranker = Reranker.from_pretrained(**ranker)
    if uses_cache or max_total_tokens is not None:
        reranker = reranker.with_log(cache=uses_cache, max_total_tokens=max_total_tokens)
    return create_ranking_service(reranker, settings, ranker)
