"""The server under load on loopback: lost and crossed answers, overhead, memory, rate, batching. The last line is JSON.

    python benchmarks/serving.py [--requests 20000] [--clients 64] [--minutes 20]

The server is `rerank serve` in a process of its own, and this process drives it. Its model is `fake-server`, which
takes `--delay` seconds per request and answers any number at a time, so that the time above the delay is the server's
own (and this process's). Every answer is checked against its request: a document that was sent with another request,
or an order that is not the model's, is *crossed*; an error or a missing document is *lost*. `rate_at_p99_25ms` is the
highest rate tried at which the 99th percentile of the overhead is at most 25 ms; 0 if the lowest one exceeds it.
`batching_speedup` compares a model in the server's process whose batch costs as much as one request: rankings per
second with many clients and with one. When the time is up, the script ends with what it has, and `complete` is false.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from rerank.backends.fake import Fake
from rerank.tasks import Reply, Request

DOCUMENTS, WORDS = 20, 60
#: Seconds after which a request counts as lost.
TIMEOUT = 60.0
#: Seconds without a request after which a connection is not used again: uvicorn closes it after 5.
IDLE = 4.0
#: Seconds of one batch of the model whose batch costs as much as one request, and of measuring it.
BATCH_SECONDS, BATCHES_SECONDS = 0.05, 4.0
#: Requests per second at which the search for the highest rate starts and ends, and the factor between rates.
LOWEST_RATE, HIGHEST_RATE, RATE_STEP = 20.0, 2000.0, 1.25
#: Seconds and requests per rate, at least; a 99th percentile of fewer requests would be their maximum.
RATE_SECONDS, RATE_REQUESTS = 10.0, 200


class SharedCost(Fake):
    """A fake model in the server's process: a batch takes as long as one request."""

    shares_batches = True

    def generate(self, requests: Sequence[Request]) -> list[Reply]:
        time.sleep(BATCH_SECONDS)
        return super().generate(requests)


def body(number: int) -> bytes:
    """A request whose texts contain its number."""
    words = random.Random(number).choices(("rain", "snow", "storm", "cloud", "wind", "sun"), k=WORDS - 2)
    documents = [f"r{number} d{n} {' '.join(words)}" for n in range(DOCUMENTS)]
    question = {"model": "m", "query": f"question {number}", "documents": documents, "return_documents": True}
    return json.dumps(question).encode()


class Counts:
    """What happened to the requests."""

    def __init__(self) -> None:
        self.lost = self.crossed = 0
        self.seconds: list[float] = []

    def add(self, number: int, seconds: float, answer: bytes | None) -> None:
        """Count a request; its answer is None if it failed."""
        self.seconds.append(seconds)
        if answer is None:
            self.lost += 1
            return
        results = json.loads(answer)["results"]
        order = [row["index"] for row in results]
        texts = [row["document"]["text"].split()[:2] for row in results]
        if sorted(order) != list(range(DOCUMENTS)):
            self.lost += 1
        elif order != order_of_model() or texts != [[f"r{number}", f"d{index}"] for index in order]:
            self.crossed += 1

    def overhead_ms(self, delay: float, share: float) -> float:
        """The quantile of the milliseconds above the model's own."""
        ordered = sorted(self.seconds)
        return 1000 * (ordered[min(len(ordered) - 1, int(share * len(ordered)))] - delay) if ordered else 0.0


def order_of_model() -> list[int]:
    """The order of ``fake:reversed``."""
    return list(reversed(range(DOCUMENTS)))


@dataclass(eq=False)
class Connection:
    """A connection of one client, which takes little time itself; a failure closes it, and the next request opens it.

    Attributes:
        url: Address of the server.
    """

    url: str
    _streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = field(default=None, init=False)
    _used: float = field(default=0.0, init=False)

    async def ask(self, number: int, counts: Counts) -> None:
        """Send a request and count its answer."""
        content = body(number)  # not part of the time
        began = time.perf_counter()
        try:
            async with asyncio.timeout(TIMEOUT):
                answer = await self._post(content)
        except (OSError, EOFError, TimeoutError, ValueError):
            answer = None
        if answer is None:
            self.close()
        counts.add(number, time.perf_counter() - began, answer)

    async def _post(self, content: bytes) -> bytes | None:
        if time.monotonic() - self._used > IDLE:
            self.close()
        self._used = time.monotonic()
        if self._streams is None:
            address = urlsplit(self.url)
            self._streams = await asyncio.open_connection(address.hostname, address.port)
        reader, writer = self._streams
        head = f"POST /v2/rerank HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(content)}\r\n"
        writer.write(f"{head}Content-Type: application/json\r\n\r\n".encode() + content)
        status, *headers = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower().split("\r\n")
        length = next(line for line in headers if line.startswith("content-length:")).partition(":")[2]
        answer = await reader.readexactly(int(length))
        return answer if status.startswith("http/1.1 200") else None

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
        self._streams = None


async def closed_loop(url: str, requests: int, clients: int, *, ends: float, spread: float = 0.0) -> Counts:
    """Each client sends its next request when it has the answer to the last one, until `time.monotonic` is ``ends``.

    The clients start evenly over ``spread`` seconds. Otherwise they would stay in step, since all replies take as long.
    """
    counts, numbers = Counts(), iter(range(requests))

    async def work(start: float) -> None:
        connection = Connection(url)
        await asyncio.sleep(start)
        while time.monotonic() < ends and (number := next(numbers, None)) is not None:
            await connection.ask(number, counts)
        connection.close()

    await asyncio.gather(*(work(spread * index / clients) for index in range(clients)))
    return counts


async def open_loop(url: str, rate: float) -> Counts:
    """Requests arrive at a fixed rate, whether or not earlier ones have been answered."""
    counts, tasks, idle = Counts(), [], list[Connection]()

    async def ask(number: int) -> None:
        connection = idle.pop() if idle else Connection(url)
        await connection.ask(number, counts)
        idle.append(connection)

    began = time.perf_counter()
    for number in range(max(RATE_REQUESTS, int(rate * RATE_SECONDS))):
        await asyncio.sleep(max(0.0, began + number / rate - time.perf_counter()))
        tasks.append(asyncio.create_task(ask(number)))
    await asyncio.gather(*tasks)
    for connection in idle:
        connection.close()
    return counts


def rate_at_p99(url: str, delay: float, limit_ms: float, ends: float) -> float:
    """The highest rate (requests/s) at which the 99th percentile of the overhead is at most a limit."""
    rate, best = LOWEST_RATE, 0.0
    while rate < HIGHEST_RATE and time.monotonic() < ends:
        counts = asyncio.run(open_loop(url, rate))
        overhead = counts.overhead_ms(delay, 0.99)
        failed = counts.lost + counts.crossed
        print(json.dumps({"rate": rate, "p99_overhead_ms": overhead, "failed": failed}), flush=True)
        if overhead > limit_ms or failed:
            break
        best, rate = rate, rate * RATE_STEP
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


def cpu_seconds(pid: int) -> float:
    """Seconds of CPU time of a process in user and kernel mode."""
    user, system = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def rankings_per_second(clients: int, ends: float) -> float:
    """Rankings per second of the model whose batch costs as much as one request."""
    requests = int(clients * BATCHES_SECONDS / BATCH_SECONDS / 2)
    with server(__file__, "--serve-shared-cost") as (url, _):
        asyncio.run(closed_loop(url, clients, clients, ends=ends))
        began = time.perf_counter()
        counts = asyncio.run(closed_loop(url, requests, clients, ends=ends))
        return len(counts.seconds) / (time.perf_counter() - began)


def serve_shared_cost() -> None:
    """Run the server of `rankings_per_second` until it is stopped."""
    from rerank import Reranker
    from rerank.serving.app import create_server_app
    from rerank.serving.ranking_service import create_ranking_service
    from rerank.serving.running import Listener, run_server

    app = create_server_app(create_ranking_service(Reranker.from_backend(SharedCost("reversed"), method="fullrank")))
    run_server(app, Listener(), announce=lambda line: print(line, flush=True))


def real_model_rate(model: str, requests: int, ends: float) -> float:
    """Requests per second of a real model, two clients at a time. Its order is its own, so only their number counts."""
    with served(model, 4) as (url, _):
        began = time.perf_counter()
        counts = asyncio.run(closed_loop(url, requests, 2, ends=ends))
        return (len(counts.seconds) - counts.lost) / (time.perf_counter() - began)


def under_load(url: str, pid: int, options: argparse.Namespace, ends: float) -> dict[str, Any]:
    """Overhead, lost and crossed answers, CPU time and memory with a fixed number of clients."""
    first = asyncio.run(closed_loop(url, min(1000, options.requests), options.clients, ends=ends))
    memory, servers, own, began = resident_mb(pid), cpu_seconds(pid), time.process_time(), time.perf_counter()
    counts = asyncio.run(closed_loop(url, options.requests, options.clients, ends=ends, spread=options.delay))
    answered = len(counts.seconds)
    return {
        "requests": answered,
        "clients": options.clients,
        "lost": counts.lost + first.lost,
        "crossed": counts.crossed + first.crossed,
        "p50_overhead_ms": counts.overhead_ms(options.delay, 0.5),
        "p99_overhead_ms": counts.overhead_ms(options.delay, 0.99),
        "mean_overhead_ms": 1000 * (statistics.mean(counts.seconds or [options.delay]) - options.delay),
        "requests_per_second": answered / (time.perf_counter() - began),
        "server_cpu_ms": 1000 * (cpu_seconds(pid) - servers) / max(1, answered),
        "driver_cpu_ms": 1000 * (time.process_time() - own) / max(1, answered),
        "memory_growth_mb": resident_mb(pid) - memory,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--delay", type=float, default=0.4)
    parser.add_argument("--minutes", type=float, default=20.0, help="the script ends after about as many minutes")
    parser.add_argument("--model", default="", help="a real model whose requests per second are measured too")
    parser.add_argument("--no-rate", action="store_true", help="omit the search for the highest rate")
    parser.add_argument("--serve-shared-cost", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve_shared_cost:
        serve_shared_cost()
        return
    ends = time.monotonic() + 60 * options.minutes
    model = f"fake-server:reversed,delay={options.delay},concurrency=4096"
    with served(model, options.clients) as (url, pid):
        figures = under_load(url, pid, options, ends)
        figures["rate_at_p99_25ms"] = 0.0 if options.no_rate else rate_at_p99(url, options.delay, 25.0, ends)
    figures["batching_speedup"] = rankings_per_second(32, ends) / (rankings_per_second(1, ends) or 1.0)
    if options.model:
        figures["real_requests_per_second"] = real_model_rate(options.model, 20, ends)
    figures["complete"] = time.monotonic() < ends
    if not figures["complete"]:
        print(f"Ended after {options.minutes:g} minutes; the figures are of what was measured by then", flush=True)
    print(json.dumps(figures))
    if figures["lost"] or figures["crossed"]:
        sys.exit("Answers were lost or crossed")


if __name__ == "__main__":
    main()
