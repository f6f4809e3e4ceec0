"""Counters and timings of the server in the Prometheus format."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from rerank.serving.fair_queue import FairQueue

#: Upper bounds of the histogram of request times, in seconds.
_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class ServerMetrics:
    """Counters and timings. Every accepted request is counted once when it arrives and once when it ends.

    Args:
        queue: The queue whose length is reported.
    """

    def __init__(self, queue: FairQueue) -> None:
        """Create the counters in a separate registry, so that a process may run several servers."""
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

    def count_ranking(
        self, *, documents: int, tokens_in: int, tokens_out: int, tokens_cached: int, is_degraded: bool
    ) -> None:
        """Count documents and tokens of one ranking, and whether windows failed or missed the deadline."""
        self._documents.inc(documents)
        self._degraded.inc(is_degraded)
        for kind, count in (("prompt", tokens_in), ("completion", tokens_out), ("cached", tokens_cached)):
            self._tokens.labels(kind).inc(count)

    def exposition(self) -> bytes:
        """Return all metrics in the Prometheus text format."""
        return generate_latest(self._registry)
