"""The server under load on loopback: lost and crossed answers, overhead, memory, rate, batching. The last line is JSON.

    python benchmarks/serving.py [--requests 20000] [--clients 64]

The server is `rerank serve` in a process of its own, and this process drives it. Its model is `fake-server`, which
takes `--delay` seconds per request and answers any number at a time, so that the time above the delay is the server's
own (and this process's). Every answer is checked against its request: a document that was sent with another request is
*crossed*, an error or a missing document is *lost*. `batching_speedup` compares a model in the server's process whose
batch costs as much as one request: rankings per second with many clients and with one.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2

from rerank.backends.fake import Fake
from rerank.tasks import Reply, Request

DOCUMENTS, WORDS = 20, 60
#: Seconds of one batch of the model whose batch costs as much as one request.
BATCH_SECONDS = 0.05
#: Answers per rate at which the rate limit is looked for.
SECONDS_PER_RATE = 10


class SharedCost(Fake):
    """A fake model in the server's process: a batch takes as long as one request."""

    shares_batches = True

    def generate(self, requests: Sequence[Request]) -> list[Reply]:
        time.sleep(BATCH_SECONDS)
        return super().generate(requests)


def body(number: int) -> dict[str, Any]:
    """A request whose texts contain its number."""
    words = random.Random(number).choices(("rain", "snow", "storm", "cloud", "wind", "sun"), k=WORDS - 2)
    documents = [f"r{number} d{n} {' '.join(words)}" for n in range(DOCUMENTS)]
    return {"model": "m", "query": f"question {number}", "documents": documents, "return_documents": True}


class Counts:
    """What happened to the requests."""

    def __init__(self) -> None:
        self.lost = self.crossed = 0
        self.seconds: list[float] = []

    def add(self, number: int, seconds: float, response: httpx2.Response | None) -> None:
        self.seconds.append(seconds)
        if response is None or response.status_code != 200:
            self.lost += 1
            return
        results = response.json()["results"]
        self.lost += sorted(row["index"] for row in results) != list(range(DOCUMENTS))
        self.crossed += any(
            row["document"]["text"].split()[:2] != [f"r{number}", f"d{row['index']}"] for row in results
        )

    def overhead_ms(self, delay: float, share: float) -> float:
        """The quantile of the milliseconds above the model's own."""
        ordered = sorted(self.seconds)
        return 1000 * (ordered[min(len(ordered) - 1, int(share * len(ordered)))] - delay)


async def ask(client: httpx2.AsyncClient, number: int, counts: Counts) -> None:
    content = json.dumps(body(number)).encode()  # not part of the time
    began = time.perf_counter()
    try:
        response = await client.post("/v2/rerank", content=content, headers={"Content-Type": "application/json"})
    except httpx2.HTTPError:
        response = None
    counts.add(number, time.perf_counter() - began, response)


def open_client(url: str, clients: int) -> httpx2.AsyncClient:
    limits = httpx2.Limits(max_connections=clients, max_keepalive_connections=clients)
    return httpx2.AsyncClient(base_url=url, timeout=60, limits=limits)


async def closed_loop(url: str, requests: int, clients: int, spread: float = 0.0) -> Counts:
    """Each client sends its next request when it has the answer to the last one.

    The clients start evenly over ``spread`` seconds. Otherwise they would stay in step, since all replies take as long.
    """
    counts, numbers = Counts(), iter(range(requests))
    async with open_client(url, clients) as client:

        async def work(start: float) -> None:
            await asyncio.sleep(start)
            for number in numbers:
                await ask(client, number, counts)

        await asyncio.gather(*(work(spread * index / clients) for index in range(clients)))
    return counts


async def open_loop(url: str, rate: float, seconds: float) -> Counts:
    """Requests arrive at a fixed rate, whether or not earlier ones have been answered."""
    counts, tasks = Counts(), []
    async with open_client(url, 2000) as client:
        began = time.perf_counter()
        for number in range(int(rate * seconds)):
            await asyncio.sleep(max(0.0, began + number / rate - time.perf_counter()))
            tasks.append(asyncio.create_task(ask(client, number, counts)))
        await asyncio.gather(*tasks)
    return counts


def rate_at_p99(url: str, delay: float, limit_ms: float) -> float:
    """The highest rate (requests/s, in steps of a quarter) at which the 99th percentile of the overhead is below."""
    rate = best = 40.0
    while rate < 2000:
        counts = asyncio.run(open_loop(url, rate, SECONDS_PER_RATE))
        overhead = counts.overhead_ms(delay, 0.99)
        print(json.dumps({"rate": rate, "p99_overhead_ms": overhead, "lost": counts.lost}), flush=True)
        if overhead > limit_ms or counts.lost:
            return best if rate > 40 else 0.0
        best, rate = rate, rate * 1.25
    return best


@contextmanager
def server(*command: str) -> Iterator[tuple[str, int]]:
    """The address and the process id of a server."""
    process = subprocess.Popen([sys.executable, *command], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield process.stdout.readline().strip(), process.pid
    finally:
        process.terminate()
        process.wait(timeout=60)


def served(model: str, clients: int) -> Any:
    return server("-m", "rerank", "serve", "--model", model, "--port", "0", "--max-active", str(clients * 40))


def resident_mb(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024


def rankings_per_second(clients: int, seconds: float = 4.0) -> float:
    """Rankings per second of the model whose batch costs as much as one request."""
    requests = int(clients * seconds / BATCH_SECONDS / 2)
    with server(__file__, "--serve-shared-cost") as (url, _):
        asyncio.run(closed_loop(url, clients, clients))
        began = time.perf_counter()
        asyncio.run(closed_loop(url, requests, clients))
        return requests / (time.perf_counter() - began)


def serve_shared_cost() -> None:
    """Run the server of `rankings_per_second` until it is stopped."""
    from rerank import Reranker
    from rerank.serving.app import create_server_app
    from rerank.serving.opening import create_ranking_service
    from rerank.serving.running import Listener, run_server

    app = create_server_app(create_ranking_service(Reranker.from_backend(SharedCost("reversed"), method="fullrank")))
    run_server(app, Listener(), announce=lambda line: print(line, flush=True))


def real_model_rate(model: str, requests: int) -> float:
    """Requests per second of a real model, one client after another."""
    with served(model, 4) as (url, _):
        began = time.perf_counter()
        counts = asyncio.run(closed_loop(url, requests, 2))
        assert not counts.lost
        return requests / (time.perf_counter() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--delay", type=float, default=0.4)
    parser.add_argument("--model", default="", help="a real model whose requests per second are measured too")
    parser.add_argument("--no-rate", action="store_true", help="omit the search for the highest rate")
    parser.add_argument("--serve-shared-cost", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve_shared_cost:
        serve_shared_cost()
        return
    model = f"fake-server:reversed,delay={options.delay},concurrency=4096"
    with served(model, options.clients) as (url, pid):
        first = asyncio.run(closed_loop(url, min(1000, options.requests), options.clients))
        before = resident_mb(pid)
        counts = asyncio.run(closed_loop(url, options.requests, options.clients, options.delay))
        grown = resident_mb(pid) - before
        rate = 0.0 if options.no_rate else rate_at_p99(url, options.delay, 25.0)
    figures = {
        "requests": len(counts.seconds),
        "clients": options.clients,
        "lost": counts.lost + first.lost,
        "crossed": counts.crossed + first.crossed,
        "p50_overhead_ms": counts.overhead_ms(options.delay, 0.5),
        "p99_overhead_ms": counts.overhead_ms(options.delay, 0.99),
        "mean_overhead_ms": 1000 * (statistics.mean(counts.seconds) - options.delay),
        "memory_growth_mb": grown,
        "rate_at_p99_25ms": rate,
        "batching_speedup": rankings_per_second(32) / rankings_per_second(1),
    }
    if options.model:
        figures["real_requests_per_second"] = real_model_rate(options.model, 20)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
