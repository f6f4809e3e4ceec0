"""The store at scale: seconds, memory and bytes per window of whole runs over windows of 20 with the backend `fake`.

    python benchmarks/store.py [--queries 1000 10000] [--log-prompts none] [--folder FOLDER]

For each number of queries (one window each) it makes up lists of 20 passages from a seed, and starts one process for
each of: `run`, `resume` (of a run that was stopped before its results were written: every reply comes from the log),
`start` (the same command on the finished run), `verify`, `eval` and `compare` (the run and its first stage).
Reported are wall-clock and CPU seconds, the peak of the memory in MB, the windows per second of `run`, the bytes per
window of the call log, and their parts. `exponents` are the slopes of log(seconds) and log(memory) between the two
largest sizes: 1 is linear. `store` is the call log alone: windows committed per second, in batches of 8 and one by one.
`servers` is the call log behind a server that needs 20 ms per reply, with 1, 8 and 64 connections: windows per second,
CPU milliseconds per window, and windows per transaction. `sizes` are the bytes per window of the call log alone beside
the compressed prompts, for windows of 20 and 100, with replies that are orders or scores, with and without prompts.
`writer` is the process that commits the calls of many workers, without Ray's messages: CPU milliseconds per window.

    python benchmarks/store.py --only-servers
    python benchmarks/store.py --only-log
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
import os
import pickle
import sqlite3
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from dataclasses import replace
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import numpy as np

from rerank.backends.fake import Fake, FakeServer
from rerank.judges import open_judge
from rerank.prompts import load_prompt
from rerank.store import CallLog, LoggingBackend, log_calls
from rerank.store.call_log import PromptStorage
from rerank.store.logging_backend import CallDesk
from rerank.tasks import Request
from rerank.types import Document, Query, Window

DEPTH, WORDS = 20, 60
#: Passages of the collection per query: on average, each is shown for `DEPTH` / `PASSAGES` queries.
PASSAGES = 5
#: Runs a command, then prints the peak of its memory; what the system tells a parent may be the parent's own memory.
_PROCESS = """
import atexit, runpy, sys
atexit.register(lambda: print(open("/proc/self/status").read()))
sys.argv[0] = "rerank"
runpy.run_module("rerank", run_name="__main__")
"""


def main() -> None:
    """Measure everything, print one line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--queries", type=int, nargs="+", default=[1000, 10000])
    parser.add_argument("--log-prompts", default="", help="passed on to `rerank run`")
    parser.add_argument("--folder", type=Path, help="keep the files there")
    parser.add_argument("--only-servers", action="store_true", help="measure the call log behind a server, and end")
    parser.add_argument("--only-log", action="store_true", help="measure sizes and the writer, and end")
    options = parser.parse_args()
    result: dict[str, Any] = {}
    if not options.only_servers:
        result = {"sizes": measure_sizes(), "writer": measure_writer()}
    if options.only_log:
        print(json.dumps(result))
        return
    result |= {"servers": {f"connections_{number}": measure_server(number) for number in (1, 8, 64)}}
    if options.only_servers:
        print(json.dumps(result))
        return
    result["store"] = {"batches_of_8": store_windows_per_second(8), "one_by_one": store_windows_per_second(1)}
    with tempfile.TemporaryDirectory() as temporary:
        for count in options.queries:
            folder = (options.folder or Path(temporary)) / str(count)
            folder.mkdir(parents=True, exist_ok=True)
            result[str(count)] = measure_run(folder, count, options.log_prompts)
            print(json.dumps({str(count): result[str(count)]}), file=sys.stderr, flush=True)
    result["exponents"] = exponents([result[str(count)] for count in options.queries], options.queries)
    print(json.dumps(result))


def make_requests(count: int, backend: Fake, depth: int = DEPTH) -> list[Request]:
    """Make up a request per query, with a prompt of ``depth`` passages."""
    passages = make_passages(count + depth)
    judge = open_judge("generate", backend, load_prompt("listwise"))
    windows = [Window(Query(id=f"q{n}", text=f"query {n}"), tuple(passages[n : n + depth])) for n in range(count)]
    return [request for window in windows for request in judge.make_requests(window)]


def measure_server(connections: int) -> dict[str, float]:
    """Windows per second and per transaction, and CPU time, through the call log of a run with a server."""
    backend = FakeServer("reversed", batch_size=connections, concurrency=connections, delay=0.02)
    requests = make_requests(min(2000, 100 * connections), backend)
    with tempfile.TemporaryDirectory() as folder, CallLog(Path(folder) / "calls.sqlite") as log:
        commits, cpu, wall = 0, time.process_time(), time.perf_counter()
        put = log.put

        def count_commit(*arguments: Any) -> list[int]:
            nonlocal commits
            commits += 1
            return put(*arguments)

        log.put = count_commit  # type: ignore[method-assign,assignment]
        log_calls(backend, log).generate(requests)
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    return {
        "windows_per_second": round(len(requests) / wall, 1),
        "cpu_ms": round(1000 * cpu / len(requests), 3),
        "windows_per_transaction": round(len(requests) / commits, 2),
    }


def store_windows_per_second(batch_size: int, count: int = 4000) -> float:
    """Windows per second that the call log alone commits."""
    backend = Fake("reversed")
    requests = make_requests(count, backend)
    calls = [(request.digest(backend.identity), request, backend.generate([request])[0]) for request in requests]
    with tempfile.TemporaryDirectory() as folder, CallLog(Path(folder) / "calls.sqlite") as log:
        started = time.perf_counter()
        for start in range(0, count, batch_size):
            log.put(calls[start : start + batch_size], "fake")
        return round(count / (time.perf_counter() - started), 1)


def measure_sizes(count: int = 500) -> dict[str, float]:
    """Bytes per window of the call log alone, committed in batches of 8, without the bytes of the packed prompts."""
    backend, chance, sizes = Fake("reversed"), np.random.default_rng(0), {}
    for depth in (DEPTH, 5 * DEPTH):
        requests = make_requests(count, backend, depth)
        orders = backend.generate(requests)
        scores = [replace(reply, text="", scores=tuple(chance.uniform(-9, 9, depth).tolist())) for reply in orders]
        digests = [request.digest(backend.identity) for request in requests]
        storages: tuple[PromptStorage, ...] = ("once", "none")
        for (kind, replies), prompts in product({"orders": orders, "scores": scores}.items(), storages):
            calls = list(zip(digests, requests, replies, strict=True))
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "calls.sqlite"
                with CallLog(path, prompts=prompts) as log:
                    for start in range(0, count, 8):
                        log.put(calls[start : start + 8], "fake")
                parts = bytes_per_window(path)
            sizes[f"{depth}_{kind}_{prompts}"] = round(parts["file"] - parts["prompts.packed"], 1)
    return sizes


def measure_writer(count: int = 512) -> dict[str, float]:
    """CPU milliseconds per window of looking up and committing the pickled calls of 8 or 64 workers."""
    backend, result = Fake("reversed"), {}
    storages: tuple[PromptStorage, ...] = ("once", "none")
    for depth, prompts, workers in product((DEPTH, 5 * DEPTH), storages, (8, 64)):
        requests = {request.digest(backend.identity): request for request in make_requests(count, backend, depth)}
        replies = backend.generate([*requests.values()])
        begun = [pickle.dumps({digest: request}) for digest, request in requests.items()]
        kept = [pickle.dumps({digest: reply}) for digest, reply in zip(requests, replies, strict=True)]
        with tempfile.TemporaryDirectory() as folder, CallLog(Path(folder) / "calls.sqlite", prompts=prompts) as log:
            desk, started = CallDesk(LoggingBackend(backend=backend, log=log)), time.process_time()
            for start in range(0, count, workers):
                for worker in range(workers):
                    desk.begin(worker, pickle.loads(begun[start + worker]))
                desk.keep([(worker, pickle.loads(kept[start + worker])) for worker in range(workers)])
            seconds = time.process_time() - started
        result[f"{depth}_{prompts}_{workers}"] = round(1000 * seconds / count, 2)
    return result


def bytes_per_window(path: Path) -> dict[str, float]:
    """Bytes per window of a call log: the whole file, and the content of each column."""
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as log:
        rows = log.execute("SELECT COUNT(*) FROM calls").fetchone()[0]
        tables = [name for (name,) in log.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        sizes = {
            f"{table}.{column[1]}": log.execute(
                f"SELECT SUM(LENGTH(CAST({column[1]} AS BLOB))) FROM {table}"
            ).fetchone()[0]
            for table in tables
            for column in log.execute(f"PRAGMA table_info({table})").fetchall()
        }
    return {"file": round(path.stat().st_size / rows, 1)} | {k: round((v or 0) / rows, 1) for k, v in sizes.items()}


def make_passages(count: int) -> list[Document]:
    """Passages of `WORDS` words with Zipf frequencies."""
    chance = np.random.default_rng(0)
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
    vocabulary = ["".join(chance.choice(letters, size)) for size in chance.integers(2, 10, 50_000)]
    chosen = (chance.zipf(1.25, (count + DEPTH, WORDS)) - 1) % len(vocabulary)
    return [Document(id=f"d{n}", text=" ".join(vocabulary[word] for word in row)) for n, row in enumerate(chosen)]


def make_up(folder: Path, count: int) -> None:
    """Write gzipped lists of candidates, and judgments of three documents per query."""
    if (folder / "qrels.txt").exists():
        return
    passages, chance = make_passages(max(1000, count * PASSAGES)), np.random.default_rng(1)
    with (
        gzip.open(folder / "lists.jsonl.gz", "wt", compresslevel=1) as lists,
        (folder / "qrels.txt").open("w") as qrels,
    ):
        for number in range(count):
            docs = [passages[n] for n in dict.fromkeys(chance.integers(0, len(passages), 2 * DEPTH))][:DEPTH]
            candidates = [{"docid": doc.id, "doc": doc.text} for doc in docs]
            lists.write(
                json.dumps({"query": {"qid": f"q{number}", "text": docs[3].text[:40]}, "candidates": candidates})
            )
            lists.write("\n")
            qrels.writelines(f"q{number} 0 {docs[place].id} {grade}\n" for place, grade in ((1, 1), (7, 2), (12, 0)))


def measure_run(folder: Path, count: int, prompts: str) -> dict[str, Any]:
    """Run, resume, start, verify, evaluate and compare one run of ``count`` windows."""
    make_up(folder, count)
    out = folder / f"run{prompts}"
    command = [
        "run",
        "--collection",
        f"requests:{folder}/lists.jsonl.gz",
        "--first-stage",
        "candidates",
        "--model",
        "fake:reversed",
    ]
    command += ["--method", "fullrank", "--depth", str(DEPTH), "--out", str(out)]
    result: dict[str, Any] = {"run": measured([*command, *(["--log-prompts", prompts] if prompts else [])])}
    result["windows_per_second"] = round(count / result["run"]["wall"], 1)
    result["bytes_per_window"] = bytes_per_window(out / "calls.sqlite")
    for name in ("summary.json", "run.trec", "judge_scores.jsonl"):
        (out / name).unlink()
    result["resume"] = measured([*command, "--resume"])
    result["start"] = measured([*command, "--resume"])
    result["verify"] = measured(["verify", str(out)])
    runs = [str(out / "run.trec"), str(out / "first_stage.trec"), "--qrels", str(folder / "qrels.txt")]
    result["eval"] = measured(["eval", *runs, "-m", "nDCG@10"])
    result["compare"] = measured(["compare", *runs])
    return result


def measured(arguments: list[str]) -> dict[str, float]:
    """Wall-clock and CPU seconds, and the peak of the memory in MB, of a command of `rerank` in its own process."""
    started = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-c", _PROCESS, *arguments], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    kilobytes = process.stdout.read().split("VmHWM:")[-1].split()[0]
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{arguments} ended with {process.returncode}")
    wall = time.perf_counter() - started
    return {"wall": round(wall, 2), "cpu": round(usage.ru_utime + usage.ru_stime, 2), "mb": int(kilobytes) // 1024}


def exponents(rows: list[dict[str, Any]], sizes: list[int]) -> dict[str, dict[str, float]]:
    """Slope of the logarithms of CPU seconds and of memory, between the two largest sizes, for each step."""
    if len(rows) < 2:
        return {}
    (small, large), ((few, many),) = rows[-2:], list(pairwise(sizes))[-1:]
    return {
        step: {
            kind: round(math.log(large[step][kind] / small[step][kind]) / math.log(many / few), 2)
            for kind in ("cpu", "mb")
        }
        for step in ("run", "resume", "start", "verify", "eval", "compare")
    }


if __name__ == "__main__":
    main()
