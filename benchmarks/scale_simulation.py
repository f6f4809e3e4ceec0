"""What ranking many queries costs on machines that are not here: a discrete-event simulation of the Ray engine.

    python benchmarks/scale_simulation.py [--queries 1000000] [--workers 1 8 64] [--measured scaling.json]

A worker takes one block of queries after the other and keeps a number of rankings of it in flight. The windows of a
ranking follow each other, and each waits until the writer has committed the window before. Requests of a worker share
its GPU: with n in flight, each gets a share 1 / n of it, but none is faster than it would be alone. No worker is lost.

The times of a GPU are fitted to published throughput (`PUBLISHED`), not measured here. Each figure is a range: the fast
end is that engine with weights in FP8, and the slow end has twice its times, since the peak of an H100 in BF16 is half
that in FP8 (989 and 1,979 TFLOPS without sparsity, data sheet of the H100 SXM). `icr` reads attention weights, which
such engines do not return, so its slow end is another factor of 2 away; that factor is an assumption.

With ``--measured``, the results of benchmarks/scaling.py with two local workers are compared with the simulation, which
checks the queueing and nothing else.
"""

from __future__ import annotations

import argparse
import heapq
import json
import random
import sys
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from scipy.optimize import nnls

#: Prompt tokens, reply tokens and output tokens per second of Llama 3.1 8B in FP8 on one H100 SXM under full load:
#: NVIDIA, TensorRT-LLM, docs/source/performance/perf-overview.md at commit 00f37686aa854010d68bcbd0f4ab000221541ca6.
PUBLISHED = (
    (128, 128, 28_312),
    (128, 2048, 22_714),
    (500, 2000, 17_660),
    (1000, 1000, 15_220),
    (1000, 2000, 13_899),
    (2048, 128, 3_450),
    (2048, 2048, 9_305),
    (5000, 500, 3_459),
    (20_000, 2000, 1_351),
)
#: Seconds between two reply tokens of a request on a nearly idle H100 (Mistral 7B in BF16, vLLM, at most 10 requests):
#: Lambda, github.com/LambdaLabsML/vllm-benchmark, results/prompt_10/1xH100-80GB-SXM, 2024-08-19.
STEP = 0.008
#: Dollars per hour of one H100, from the cheapest to the most expensive of the providers' list prices of 2026 that were
#: found (docs/scaling.md names them).
GPU_HOUR = (1.8, 4.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """The requests for one query with 100 passages of about 90 tokens.

    Attributes:
        windows: Number of windows, one after the other.
        prompt: Prompt tokens per window.
        reply: Reply tokens per window.
        slowest: Factor of the slow end of the range.
    """

    windows: int
    prompt: int
    reply: int
    slowest: float = 2.0


#: Prompt tokens: means of `rerank run` over 100 candidates per query (docs/log.md, repeated tokens); reply tokens: the
#: bound of --dry-run.
METHODS = {
    "fullrank": Method(windows=1, prompt=9_359, reply=407),
    "sliding": Method(windows=9, prompt=1_966, reply=87),
    "icr": Method(windows=1, prompt=9_388, reply=0, slowest=4.0),
    "first": Method(windows=9, prompt=1_948, reply=1),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """What the queries run on.

    Attributes:
        workers: Number of workers.
        block: Queries per block.
        in_flight: Rankings in flight per worker.
        startup: Seconds until a worker has loaded its model.
        commit: Seconds of the writer per window.
    """

    workers: int = 1
    block: int = 512
    in_flight: int = 128
    startup: float = 120.0
    commit: float = 0.0005


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """Seconds until the last commit, and shares of it in which workers compute and the writer writes."""

    seconds: float
    busy: float
    writer: float


@dataclass(slots=True)
class _Worker:
    """A worker whose requests share a GPU equally.

    All requests in flight gain the same work per second, so ``gained`` is a clock on which each request ends at a time
    that is known when it begins.
    """

    fastest: float  # largest share of the GPU that a single request can use
    since: float
    gained: float = 0.0
    busy: float = 0.0
    committing: int = 0
    event: int = 0  # number of the last change; the ends that were expected before it are void
    waiting: deque[int] = field(default_factory=deque)  # windows left of the rankings of the block that have not begun
    active: list[tuple[float, int]] = field(default_factory=list)  # heap: end on the clock, windows left

    def advance(self, now: float) -> None:
        """Compute until ``now``."""
        if self.active and now > self.since:
            self.gained += (now - self.since) * self._speed()
            self.busy += now - self.since
        self.since = max(self.since, now)

    def begin(self, work: float, windows_left: int) -> None:
        """Begin a request."""
        heapq.heappush(self.active, (self.gained + work, windows_left))

    def next_end(self) -> float:
        """Return when the first request ends if no other begins."""
        return self.since + max(0.0, self.active[0][0] - self.gained) / self._speed()

    def _speed(self) -> float:
        return min(1 / len(self.active), self.fastest)


def fit_times(published: Sequence[tuple[int, int, float]] = PUBLISHED) -> np.ndarray:
    """Return the seconds of a GPU per prompt token, squared prompt token, reply token, and reply token x context."""
    rows, seconds = [], []
    for prompt, reply, rate in published:
        rows.append(_terms(prompt, reply))
        seconds.append(reply / rate)
    weights = 1 / np.array(seconds)  # relative errors count
    return nnls(np.array(rows) * weights[:, None], np.ones(len(seconds)))[0]


def _terms(prompt: float, reply: float) -> list[float]:
    return [prompt, prompt**2, reply, reply * (prompt + reply / 2)]


def seconds_of_request(times: np.ndarray, prompt: float, reply: float) -> float:
    """Return the seconds of a fully loaded GPU that one request takes."""
    return float(np.dot(times, _terms(prompt, reply)))


def simulate(
    cluster: Cluster, queries: int, windows: int, work: float, alone: float, *, spread: float = 0.1, seed: int = 0
) -> Outcome:
    """Simulate a run.

    Args:
        cluster: What it runs on.
        queries: Number of queries.
        windows: Windows per query, one after the other.
        work: Seconds of a fully loaded GPU per window.
        alone: Seconds of a window on an idle GPU.
        spread: Standard deviation of the lengths of requests, relative to their mean.
        seed: Seed of the lengths.
    """
    draw = random.Random(seed)
    workers = [_Worker(fastest=min(1.0, work / alone), since=cluster.startup) for _ in range(cluster.workers)]
    events: list[tuple[float, int, str, int]] = []  # time, worker, what, number of the change or windows left
    left = unfinished = queries
    writer_free = writer_busy = end = 0.0

    def begin(worker: _Worker, windows_left: int) -> None:
        worker.begin(work * max(0.2, draw.gauss(1, spread)), windows_left)

    def schedule(index: int) -> None:
        nonlocal left
        worker = workers[index]
        if not (worker.waiting or worker.active or worker.committing) and left:
            share = min(cluster.block, left)
            left -= share
            worker.waiting.extend([windows] * share)
        while worker.waiting and len(worker.active) + worker.committing < cluster.in_flight:
            begin(worker, worker.waiting.popleft())
        worker.event += 1
        if worker.active:
            heapq.heappush(events, (worker.next_end(), index, "end", worker.event))

    for index in range(cluster.workers):
        schedule(index)
    while unfinished:
        now, index, what, number = heapq.heappop(events)
        worker = workers[index]
        if what == "end" and number != worker.event:
            continue
        worker.advance(now)
        if what == "end":
            windows_left = heapq.heappop(worker.active)[1]
            worker.committing += 1
            writer_free = max(now, writer_free) + cluster.commit
            writer_busy += cluster.commit
            heapq.heappush(events, (writer_free, index, "commit", windows_left - 1))
        else:
            worker.committing -= 1
            end = now
            unfinished -= not number
            if number:
                begin(worker, number)
        schedule(index)
    span = max(end - cluster.startup, 1e-9)
    busy = sum(worker.busy for worker in workers) / cluster.workers / span
    return Outcome(seconds=end, busy=busy, writer=writer_busy / span)


def extrapolate(cluster: Cluster, queries: int, windows: int, work: float, alone: float) -> dict[str, float]:
    """Simulate a few blocks per worker and twice as many, and continue the line through both to all queries."""
    few = cluster.workers * cluster.block * 2
    first, second = (simulate(cluster, count, windows, work, alone) for count in (few, 2 * few))
    slope = (second.seconds - first.seconds) / few
    return {
        "hours": round((first.seconds + slope * (queries - few)) / 3600, 2),
        "busy": round(second.busy, 3),
        "writer": round(second.writer, 3),
    }


def plan(queries: int, workers: Sequence[int], commit: float) -> list[dict[str, object]]:
    """Return one row per method and number of workers: tokens, hours and dollars as ranges."""
    times, rows = fit_times(), []
    for name, method in METHODS.items():
        base = seconds_of_request(times, method.prompt, method.reply)
        for count in workers:
            ends = []
            for factor in (1.0, method.slowest):
                alone = factor * seconds_of_request(times, method.prompt, 0) + method.reply * STEP
                cluster = Cluster(workers=count, commit=commit)
                ends.append(extrapolate(cluster, queries, method.windows, factor * base, max(alone, factor * base)))
            hours = [end["hours"] for end in ends]
            rows.append(
                {
                    "method": name,
                    "workers": count,
                    "tokens_in": queries * method.windows * method.prompt,
                    "tokens_out": queries * method.windows * method.reply,
                    "hours": hours,
                    "gpu_hours": [round(hour * count, 1) for hour in hours],
                    "dollars": [round(hours[0] * count * GPU_HOUR[0]), round(hours[1] * count * GPU_HOUR[1])],
                    "busy": [end["busy"] for end in ends],
                    "writer": [end["writer"] for end in ends],
                }
            )
    return rows


def validate(measured: Path) -> dict[str, float]:
    """Return the simulated over the measured seconds per window of two local workers with a fixed delay.

    The file is the output of benchmarks/scaling.py, whose model answers one request at a time.
    """
    run = json.loads(measured.read_text(encoding="utf-8").splitlines()[0])
    windows, overhead = run["windows"], max(0.0, run["overhead_ms_per_window"]) / 1000
    cluster = Cluster(workers=2, block=8, in_flight=1, startup=0.0, commit=overhead)
    simulated = simulate(cluster, windows, 1, run["delay"], run["delay"], spread=0.0).seconds / windows
    return {"simulated_over_measured": round(simulated / (run["seconds_measured_2"] / (0.8 * windows)), 3)}


def main() -> None:
    """Print one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--queries", type=int, default=1_000_000)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--commit", type=float, default=Cluster().commit, help="seconds of the writer per window")
    parser.add_argument("--measured", type=Path, help="results of a local run, to check the queueing")
    options = parser.parse_args()
    times = fit_times()
    fit = [round(seconds_of_request(times, p, r) / (r / rate), 2) for p, r, rate in PUBLISHED]
    print(f"fitted over published seconds: {fit}", file=sys.stderr)
    content: dict[str, object] = {"rows": plan(options.queries, options.workers, options.commit), "fit": fit}
    if options.measured:
        content |= validate(options.measured)
    print(json.dumps(content))


if __name__ == "__main__":
    main()
