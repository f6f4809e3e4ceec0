"""The request path of the library: many users, deadlines, refilled slots, overhead and memory. The last line is JSON.

    python benchmarks/requests.py

Servers are simulated by ``fake-server``, whose replies take the stated time, so that the figures are the library's.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from rerank.backends.fake_server import FakeServer
from rerank.reranker import Reranker

TEXTS = [f"passage number {n} of the list" for n in range(20)]


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


async def deadline_error(deadline: float, calls: int) -> tuple[float, float]:
    """95th percentile of (returned - deadline) / deadline, and the share of rankings that were marked as expired.

    Every ranking takes several requests in sequence, each of which takes a third of the deadline.
    """
    with reranker(deadline / 3, method="sliding,size=4,stride=2", concurrency=calls) as shared:
        await shared.arank("warm up", TEXTS[:1])

        async def one(n: int) -> tuple[float, bool]:
            began = time.perf_counter()
            hits = await shared.arank(f"question {n}", TEXTS, deadline=deadline)
            return (time.perf_counter() - began - deadline) / deadline, hits.expired

        rows = await asyncio.gather(*(one(n) for n in range(calls)))
    errors = sorted(error for error, _ in rows)
    return errors[int(0.95 * (len(errors) - 1))], sum(expired for _, expired in rows) / len(rows)


def refill(requests: int) -> float:
    """Seconds of 320 rankings at concurrency 8, where every 16th reply takes 3 s and the others .2 s; ideal: 15 s."""
    backend = FakeServer("reversed", delay=0.2, slow_every=16, slow_delay=3.0, concurrency=8)
    with Reranker.from_backend(backend, method="fullrank") as shared:
        began = time.perf_counter()
        list(shared.rank_many((f"question {n}", TEXTS) for n in range(requests)))
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
    result["deadline_error"] = max(result["deadline_error_1_s"], result["deadline_error_5_s"])
    result["overhead_p50_ms"] = asyncio.run(overhead(settings.calls, 0.4))
    result["refill_seconds"] = refill(settings.requests)
    if all(settings.queries):
        result |= bytes_per_query(*settings.queries)
    for key, value in result.items():
        print(f"{key:24}{value:12.4g}")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
