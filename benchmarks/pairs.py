"""This checkout against another one: the same work in both, in turns, and the ratio of their CPU seconds.

    python benchmarks/pairs.py OTHER_CHECKOUT [--other-python PYTHON] [--pairs 10] [--only NAME]

Each checkout does its work in a process of its own, which loads everything before the first pair; which of them comes
first changes from pair to pair. Ratios are ours / theirs, so at most 1 is good: the median over pairs, with its 95 %
bootstrap interval. `same` says that both gave the same orders and scores. `serving` runs `serving.py` with 2,000
requests in each checkout, and compares the CPU milliseconds of the server per request. The last line is JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import importlib
import importlib.util
import json
import logging
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
MODEL = "smollm2-135m"
#: Servers of the work, which end with the process.
OPEN = contextlib.ExitStack()
#: What `arank` reranks, and how many questions are asked about it.
TEXTS, QUESTIONS = [f"passage number {n} of the list" for n in range(20)], 150


def script(name: str) -> Any:
    """Return a script of this checkout's benchmarks as a module; one of them has the name of a library."""
    path = Path.cwd() / "benchmarks" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def requests() -> Callable[[], Any]:
    """Many rankings over a simulated server that answers at once, eight at a time."""
    reranker = script("requests").reranker(0.0, method="sliding,size=4,stride=2")

    async def ask() -> list[list[int]]:
        orders: list[list[int]] = []
        for start in range(0, QUESTIONS, 8):
            hits = await asyncio.gather(*(reranker.arank(f"question {start + n}", TEXTS) for n in range(8)))
            orders += [[hit.corpus_id for hit in found] for found in hits]
        return orders

    return lambda: asyncio.run(ask())


def http_requests() -> Callable[[], Any]:
    """The same over HTTP with a server on loopback, whose CPU seconds count too."""
    from rerank import Reranker

    server = OPEN.enter_context(script("requests").slow_server(0.0))
    reranker = Reranker.from_pretrained("openai:slow", base_url=server, method="sliding,size=4,stride=2")
    return lambda: [
        [hit.corpus_id for hit in hits]
        for hits in reranker.rank_many((f"question {n}", TEXTS) for n in range(QUESTIONS))
    ]


def decoding() -> Callable[[], Any]:
    """Constrained decoding of an order of 10 passages."""
    module = script("decoding")
    backend = opened()
    asked = module.request(backend, 10, 32)
    return lambda: backend.generate([asked])[0].text


def attention() -> Callable[[], Any]:
    """Attention to 10 passages, with the null query."""
    module = script("attention")
    backend = opened()
    asked = module.request(backend, documents=10, words=60)
    return lambda: list(module.run(backend, asked))


def batching() -> Callable[[], Any]:
    """Sliding windows over two lists of 30 in lock-step."""
    from rerank.collections import open_collection
    from rerank.judges import Limits
    from rerank.retrieval import open_first_stage

    module, collection, backend = script("batching"), open_collection("pydoc"), opened()
    lists = list(open_first_stage("bm25", collection).search(collection.queries()[:2], 30).values())
    return lambda: module.counted("sliding", backend, lists, Limits(min_passage_tokens=8, max_passage_tokens=16))


def reading() -> Callable[[], Any]:
    """Reading of 61 runs."""
    from rerank.io.run_files import read_run

    paths, _ = script("evaluation").make_up(Path(tempfile.mkdtemp()))
    files = sorted(paths[0].iterdir())
    return lambda: [[*run] for run in map(read_run, files)]


def evaluation() -> Callable[[], Any]:
    """Evaluation of 61 runs that have been read."""
    from rerank.evaluation import evaluate_runs
    from rerank.io.run_files import read_qrels, read_run

    paths, judged = script("evaluation").make_up(Path(tempfile.mkdtemp()))
    runs, qrels = [read_run(path) for path in sorted(paths[0].iterdir())], read_qrels(judged)
    return lambda: [scores.values for scores in evaluate_runs(qrels, runs, ["nDCG@10", "AP"])]


def opened() -> Any:
    """Return the embedded model."""
    from rerank.models import BackendOptions, open_model_backend

    return open_model_backend(MODEL, BackendOptions(dtype="float32"))


WORKS = {work.__name__: work for work in (requests, http_requests, decoding, attention, batching, reading, evaluation)}


def serve(name: str) -> None:
    """Prepare one work, then do it once per line of standard input and print its CPU seconds and a digest of it."""
    answers = os.dup(1)
    os.dup2(2, 1)  # what the package prints must not mix with the answers
    sys.path[0] = str(Path.cwd() / "benchmarks")  # instead of the folder of this file, which may be of another checkout
    logging.getLogger("rerank").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    work = WORKS[name]()
    with open(answers, "w", encoding="utf-8", buffering=1) as out:
        for _ in sys.stdin:
            began = time.process_time()
            result = work()
            seconds = time.process_time() - began
            digest = hashlib.sha256(json.dumps(result).encode()).hexdigest()
            out.write(json.dumps({"seconds": seconds, "digest": digest}) + "\n")


class Checkout:
    """One checkout and its interpreter."""

    def __init__(self, root: Path, python: str) -> None:
        self.root, self.python = root, python
        self.environment = os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}

    def worker(self, name: str) -> Callable[[], dict[str, Any]]:
        """Return a function that does one piece of work in a process of the checkout."""
        process = subprocess.Popen(
            [self.python, __file__, "--serve", name],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=self.root, env=self.environment,
        )  # fmt: skip

        def ask() -> dict[str, Any]:
            assert process.stdin is not None
            assert process.stdout is not None
            with contextlib.suppress(BrokenPipeError):  # it has ended, which is found below
                process.stdin.write("\n")
                process.stdin.flush()
            if not (line := process.stdout.readline()):
                raise SystemExit(f"The work {name!r} ended with an error in {self.root}; its last lines are above")
            answer: dict[str, Any] = json.loads(line)
            return answer

        return ask

    def serving(self) -> dict[str, Any]:
        """Return what the benchmark of the server measures with 2,000 requests."""
        command = [self.python, "benchmarks/serving.py", "--requests", "2000", "--no-rate"]
        done = subprocess.run(command, cwd=self.root, env=self.environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{' '.join(command)} failed in {self.root}:\n{done.stderr[-2000:]}")
        figures = json.loads(done.stdout.splitlines()[-1])
        return {"seconds": figures["server_cpu_ms"], "digest": (figures["lost"], figures["crossed"])}


def compare(ours: Callable[[], dict[str, Any]], theirs: Callable[[], dict[str, Any]], pairs: int) -> dict[str, Any]:
    """Return the median ratio over pairs and its interval."""
    rows: list[tuple[float, float]] = []
    same = True
    for number in range(pairs):
        if number % 2:
            other, own = theirs(), ours()
        else:
            own, other = ours(), theirs()
        same = same and own["digest"] == other["digest"]
        rows.append((own["seconds"], other["seconds"]))
    ratios = np.array([own / other for own, other in rows])
    chance = np.random.default_rng(0)
    medians = np.median(ratios[chance.integers(len(ratios), size=(10_000, len(ratios)))], axis=1)
    low, high = np.quantile(medians, [0.025, 0.975])
    return {
        "ratio": round(float(np.median(ratios)), 3),
        "interval": [round(float(low), 3), round(float(high), 3)],
        "pairs": pairs,
        "ours": round(statistics.median(own for own, _ in rows), 4),
        "theirs": round(statistics.median(other for _, other in rows), 4),
        "same": same,
    }


def main() -> None:
    """Compare every work, print one line per work and all as JSON."""
    if sys.argv[1:2] == ["--serve"]:
        serve(sys.argv[2])
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("other", type=Path, help="folder of the other checkout")
    parser.add_argument("--other-python", help="its interpreter; without it, this one")
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--only", choices=[*WORKS, "serving"], action="append", help="may be repeated")
    options = parser.parse_args()
    if not (options.other / "rerank").is_dir():
        parser.error(f"{options.other} is not a checkout: it has no folder rerank. Make one with git worktree add")
    if options.pairs < 1:
        parser.error(f"--pairs is {options.pairs}; expected at least 1")
    here = Checkout(ROOT, sys.executable)
    other = Checkout(options.other.resolve(), options.other_python or sys.executable)
    result: dict[str, Any] = {}
    for name in options.only or [*WORKS, "serving"]:
        ours, theirs = (c.serving if name == "serving" else c.worker(name) for c in (here, other))
        if name != "serving":  # loads what is loaded once, and fills memos
            ours(), theirs()
        result[name] = compare(ours, theirs, options.pairs)
        print(f"{name:14}{result[name]}", flush=True)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
