"""The request path of the library: users, deadlines, refilled slots, overhead, traces, memory. The last line is JSON.

    python benchmarks/requests.py

Servers are simulated by ``fake-server``, whose replies take the stated time, so that the figures are the library's.
Deadlines are also measured over HTTP, with a server on loopback.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import logging
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from rerank.backends.fake import Fake, FakeServer
from rerank.reranker import Reranker

TEXTS = [f"passage number {n} of the list" for n in range(20)]
#: Rankings in progress at a time where deadlines are measured.
_CALLERS = 10


def reranker(delay: float, *, method: str = "fullrank", **options: Any) -> Reranker:
    return Reranker.from_backend(FakeServer("reversed", delay=delay, **options), method=method)


async def together(callers: int) -> float:
    """Seconds until ``callers`` concurrent rankings over a server that takes 1 s have returned."""
    with reranker(1.0) as shared:
        await shared.arank("warm up", TEXTS[:1])
        began = time.perf_counter()
        await asyncio.gather(*(shared.arank(f"question {n}", TEXTS) for n in range(callers)))
        return time.perf_counter() - began


def in_threads(threads: int) -> tuple[float, int]:
    """Seconds of 32 rankings from threads over a server that takes 1 s and answers 8 at a time; most in progress."""
    backend = FakeServer("reversed", delay=1.0, concurrency=8)
    with Reranker.from_backend(backend, method="fullrank") as shared, ThreadPoolExecutor(threads) as pool:
        began = time.perf_counter()
        list(pool.map(lambda n: shared.rank(f"question {n}", TEXTS), range(threads)))
        return time.perf_counter() - began, backend.most_in_progress


@contextlib.contextmanager
def slow_server(delay: float) -> Iterator[str]:
    """Base URL of an OpenAI-compatible server on loopback that answers every window after ``delay`` seconds."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            time.sleep(delay)
            message = {"role": "assistant", "content": "[4] > [3] > [2] > [1]"}
            usage = {"prompt_tokens": 100, "completion_tokens": 15}
            choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
            self.answer(json.dumps({"model": "slow", "choices": choices, "usage": usage}).encode())

        def do_GET(self) -> None:
            self.answer(b'{"object": "list", "data": [{"id": "slow"}]}')

        def answer(self, body: bytes) -> None:
            with contextlib.suppress(OSError):  # the client may have left at its deadline
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

        def log_message(self, *_: object) -> None: ...

    class Server(ThreadingHTTPServer):
        request_queue_size = 128
        daemon_threads = True

    with Server(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/v1"
        server.shutdown()


async def deadline_error(deadline: float, calls: int, base_url: str | None = None) -> tuple[float, float]:
    """95th percentile of (returned - deadline) / deadline, and the share of rankings that were marked as expired.

    Every ranking takes several requests in sequence, each of which takes a third of the deadline. Ten rankings are in
    progress at a time.
    """
    method = "sliding,size=4,stride=2"
    if base_url is None:
        shared = reranker(deadline / 3, method=method, concurrency=_CALLERS)
    else:
        shared = Reranker.from_pretrained("openai:slow", base_url=base_url, method=method, concurrency=_CALLERS)
    with shared:
        await shared.arank("warm up", TEXTS[:1])

        async def one(n: int) -> tuple[float, bool]:
            began = time.perf_counter()
            hits = await shared.arank(f"question {n}", TEXTS, deadline=deadline)
            return (time.perf_counter() - began - deadline) / deadline, hits.expired

        rows = []
        for start in range(0, calls, _CALLERS):
            rows += await asyncio.gather(*(one(n) for n in range(start, min(start + _CALLERS, calls))))
    errors = sorted(error for error, _ in rows)
    return errors[int(0.95 * (len(errors) - 1))], sum(expired for _, expired in rows) / len(rows)


def refill(requests: int) -> float:
    """Seconds of 320 rankings at concurrency 8, where every 16th reply takes 3 s and the others .2 s; ideal: 15 s."""
    backend = FakeServer("reversed", delay=0.2, slow_every=16, slow_delay=3.0, concurrency=8)
    with Reranker.from_backend(backend, method="fullrank") as shared:
        began = time.perf_counter()
        list(shared.rank_many((f"question {n}", TEXTS) for n in range(requests)))
        return time.perf_counter() - began


def seconds_on_servers(rankings: int, delays: Sequence[float]) -> float:
    """Seconds of rankings with one request each over one server per delay, which takes 4 requests at a time."""
    with contextlib.ExitStack() as stack:
        urls = tuple(stack.enter_context(slow_server(delay)) for delay in delays)
        shared = Reranker.from_pretrained(
            "openai:slow", base_url=urls, method="fullrank", concurrency=4, context_size=8192
        )
        stack.enter_context(shared)
        shared.rank("warm up", TEXTS)
        began = time.perf_counter()
        list(shared.rank_many((f"question {n}", TEXTS) for n in range(rankings)))
        return time.perf_counter() - began


async def overhead(calls: int, delay: float) -> float:
    """Median milliseconds of ``arank`` over a delay of 400 ms, without the delay; 20 passages, one caller."""
    with reranker(delay) as shared:
        await shared.arank("warm up", TEXTS)
        seconds = []
        for n in range(calls):
            began = time.perf_counter()
            await shared.arank(f"question {n}", TEXTS)
            seconds.append(time.perf_counter() - began)
    return 1000 * (statistics.median(seconds) - delay)


def traced(rankings: int) -> float | None:
    """CPU seconds of rankings that are traced over those without a tracer provider; None without the extra ``otel``."""
    try:
        from opentelemetry import trace
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
    except ImportError:
        return None
    seconds = []
    with Reranker.from_backend(Fake("reversed"), method="fullrank") as local:
        for _ in range(2):
            local.rank("warm up", TEXTS)
            began = time.process_time()
            for n in range(rankings):
                local.rank(f"question {n}", TEXTS)
            seconds.append(time.process_time() - began)
            if len(seconds) == 1:
                provider = TracerProvider()
                provider.add_span_processor(BatchSpanProcessor(InMemorySpanExporter()))
                trace.set_tracer_provider(provider)
    return seconds[1] / seconds[0]


_MEMORY = """
import resource, sys
from rerank.cli import main
sys.argv = {command!r}
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
used = resource.getrusage(resource.RUSAGE_SELF)
print(used.ru_maxrss * 1024, used.ru_utime + used.ru_stime)
"""


def peak_memory(folder: Path, queries: int) -> tuple[int, float]:
    """Peak resident bytes and CPU seconds of ``rerank rerank`` over lists of 20 in a file, without judgments."""
    path = folder / f"{queries}.jsonl"
    with path.open("w", encoding="utf-8") as file:
        for n in range(queries):
            docs = [{"docid": f"d{n}-{i}", "doc": f"{text} {n}"} for i, text in enumerate(TEXTS)]
            query = {"qid": f"q{n}", "text": f"question {n}"}
            file.write(json.dumps({"query": query, "candidates": docs}) + "\n")
    command = ["rerank", "rerank", "--collection", f"requests:{path}", "--model", "fake:reversed"]
    command += ["--out", str(folder / f"run{queries}"), "-o", str(folder / f"{queries}.trec")]
    process = subprocess.run(
        [sys.executable, "-c", _MEMORY.format(command=command)], capture_output=True, text=True, check=False
    )
    if process.returncode:
        raise SystemExit(process.stderr[-2000:])
    peak, seconds = process.stdout.split()[-2:]
    return int(peak), float(seconds)


def bytes_per_query(small: int, large: int) -> dict[str, float]:
    """Additional peak memory per query between two numbers of queries, and CPU milliseconds per query."""
    with tempfile.TemporaryDirectory() as folder:
        (least, before), (most, after) = (peak_memory(Path(folder), queries) for queries in (small, large))
    return {
        "peak_mb_small": least / 1e6,
        "peak_mb_large": most / 1e6,
        "bytes_per_query": (most - least) / (large - small),
        "cpu_ms_per_query": 1000 * (after - before) / (large - small),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=50, help="rankings per deadline")
    parser.add_argument("--requests", type=int, default=320, help="rankings of the refill measurement")
    parser.add_argument("--queries", type=int, nargs=2, default=(10_000, 100_000), help="sizes for memory; 0 0 to skip")
    settings = parser.parse_args()
    logging.getLogger("rerank").setLevel(logging.ERROR)  # every expired ranking would be a line
    result: dict[str, Any] = {"concurrent_8_s": asyncio.run(together(8))}
    result["threads_32_s"], result["most_connections"] = in_threads(32)
    for deadline in (1.0, 5.0):
        error, expired = asyncio.run(deadline_error(deadline, settings.calls))
        result[f"deadline_error_{deadline:g}_s"], result[f"expired_{deadline:g}_s"] = error, expired
        with slow_server(deadline / 3) as url:
            error, expired = asyncio.run(deadline_error(deadline, settings.calls, url))
        result[f"http_deadline_error_{deadline:g}_s"], result[f"http_expired_{deadline:g}_s"] = error, expired
    result["deadline_error"] = max(value for key, value in result.items() if "deadline_error" in key)
    result["overhead_p50_ms"] = asyncio.run(overhead(settings.calls, 0.4))
    result["refill_seconds"] = refill(settings.requests)
    alone = seconds_on_servers(settings.requests, [0.4])
    result["speedup_2_servers"] = alone / seconds_on_servers(settings.requests, [0.4, 0.4])
    result["speedup_and_slow_server"] = alone / seconds_on_servers(settings.requests, [0.4, 1.2])  # ideal: 4/3
    if (ratio := traced(10 * settings.calls)) is not None:
        result["traced_ratio"] = ratio
    if all(settings.queries):
        result |= bytes_per_query(*settings.queries)
    for key, value in result.items():
        print(f"{key:24}{value:12.4g}")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
