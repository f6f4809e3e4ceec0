"""Two workers of Ray against one process: speed with a model of fixed delay, overhead per window, and kills survived.

    python benchmarks/scaling.py [--delay 0.3] [--windows 400] [--kills 20] [--restarts 20]
    OMP_NUM_THREADS=1 python benchmarks/scaling.py --smollm2 60

Rates are those of the replies after the first fifth, so the start of the cluster and of the workers does not count.
The overhead is a difference of medians, since other work on the machine stretches some windows. `--kills` ends random
workers during a run, two per run; `--restarts` ends the whole run, which is then continued. `--smollm2` measures
SmolLM2-135M in place of all that, with one thread per process, and reports the load of the machine.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from statistics import fmean, median
from typing import Any

# Beside this script lies requests.py, which Ray and its workers would import instead of the library.
sys.path = [path for path in sys.path if Path(path) != Path(__file__).parent]

from rerank.experiment import run_experiment  # noqa: E402
from rerank.experiment.spec import Execution, RunSpec  # noqa: E402

WORKERS = 2


def main() -> None:
    """Measure, and print one line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--delay", type=float, default=0.3, help="seconds per call of the model")
    parser.add_argument("--windows", type=int, default=400)
    parser.add_argument("--kills", type=int, default=0, help="workers to end at random moments")
    parser.add_argument("--restarts", type=int, default=0, help="ends of the whole run at random moments")
    parser.add_argument("--smollm2", type=int, metavar="WINDOWS", help="measure SmolLM2-135M with this many windows")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if options.smollm2:
            print(json.dumps(measure_smollm2(Bench(Path(folder), options.smollm2))))
            return
        bench = Bench(Path(folder), options.windows)
        one, several = (fmean(bench.run(fake(f"delay={options.delay}"), workers)) for workers in (0, WORKERS))
        bare, through_ray = (median(bench.run(fake("delay=0"), workers)) for workers in (0, 1))
        survived = bench.survive_kills(options.kills) + bench.survive_restarts(options.restarts)
        print(
            json.dumps(
                {
                    "speedup_fixed_delay_2": one / several,
                    "delay": options.delay,
                    "windows": options.windows,
                    "seconds_measured_2": several * 0.8 * options.windows,
                    "overhead_ms_per_window": 1000 * (through_ray - bare),
                    "identical": bench.identical,
                    "kills": options.kills + options.restarts,
                    "kills_survived": survived,
                }
            )
        )


def fake(options: str) -> dict[str, Any]:
    """Return model and method of a run of a fake model with some options, one window per batch."""
    return {"method": "fullrank", "model": f"fake:stutter,batch_size=1,{options}"}


def measure_smollm2(bench: Bench) -> dict[str, Any]:
    """Measure `first` on six passages per query, which is one window, one window per batch."""
    before = os.getloadavg()
    model = {"model": "smollm2-135m", "method": "first", "depth": 6, "max_passage_tokens": 48, "dtype": "float32"}
    one, several = (fmean(bench.run(model, workers, batch_size=1)) for workers in (0, WORKERS))
    return {
        "speedup_smollm2_2": one / several,
        "windows": bench.windows,
        "seconds_per_window": [one, several],
        "threads": os.environ.get("OMP_NUM_THREADS"),
        "load": [before, os.getloadavg()],
        "identical": bench.identical,
    }


class Bench:
    """Runs over the same lists, one window per list; the first one is what all others are compared with."""

    def __init__(self, folder: Path, windows: int) -> None:
        self.folder, self.windows, self.identical, self._count = folder, windows, True, 0
        self._reference: tuple[Any, ...] = ()
        docs = [{"docid": f"d{n}", "doc": f"text of document {n} " * 10, "score": 100 - n} for n in range(20)]
        rows = [{"query": {"qid": f"q{q}", "text": f"query {q}"}, "candidates": docs} for q in range(windows)]
        (folder / "lists.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")

    def spec(self, values: dict[str, Any]) -> RunSpec:
        """Return a run over the lists."""
        lists = {"collection": f"requests:{self.folder / 'lists.jsonl'}", "first_stage": "candidates"}
        return RunSpec.make(lists | values)

    def run(self, values: dict[str, Any], workers: int, **execution: Any) -> list[float]:
        """Run, compare the result, and return the seconds of each window after the first fifth."""
        out = self._out()
        replies: list[float] = []
        engine: dict[str, Any] = {"engine": "ray", "workers": workers} if workers else {}
        run_experiment(
            self.spec(values),
            Execution(out=out, **engine, **execution),
            on_reply=lambda reply: replies.append(time.monotonic()),
        )
        self.compare(out)
        return [later - earlier for earlier, later in pairwise(replies[len(replies) // 5 :])]

    def compare(self, out: Path) -> bool:
        """Return whether a run has the results and the calls of the first one."""
        query = "SELECT digest, text, tokens_in, tokens_out FROM calls ORDER BY digest"
        with closing(sqlite3.connect(out / "calls.sqlite")) as log:
            found = ((out / "run.trec").read_bytes(), log.execute(query).fetchall())
        self._reference = self._reference or found
        self.identical = self.identical and found == self._reference
        return found == self._reference

    def survive_kills(self, kills: int) -> int:
        """End random workers, two per run; return the number of kills in runs that ended with the same results."""
        survived = 0
        for seed in range(0, kills, 2):
            out, served = self._out(), self.folder / f"served{seed}"
            count = min(2, kills - seed)
            killer = threading.Thread(target=_kill_workers, args=(served, count, seed, self.windows))
            killer.start()
            run_experiment(
                self.spec(fake(f"delay=0.05,log={served}")), Execution(out=out, engine="ray", workers=WORKERS)
            )
            killer.join()
            survived += count if self.compare(out) else 0
        return survived

    def survive_restarts(self, restarts: int) -> int:
        """End a whole run at random moments and continue it; return the number of ends if the results are the same."""
        if not restarts:
            return 0
        out, served, rng = self._out(), self.folder / "served", random.Random(0)
        spec = self.spec(fake(f"delay=0.05,log={served}"))
        flags = ["--collection", spec.collection, "--first-stage", "candidates", "--method", spec.method]
        flags += ["--model", spec.model, "--out", str(out), "--resume", "--engine", "ray", "--workers", str(WORKERS)]
        command = [sys.executable, "-m", "rerank", "run", *flags]
        for _ in range(restarts):
            goal = len(_lines(served)) + rng.randrange(1, max(2, self.windows // (restarts + 1)))
            with subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as run:
                while len(_lines(served)) < goal and run.poll() is None:
                    time.sleep(0.01)
                run.kill()
        subprocess.run(command, check=True, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        repeated = len(_lines(served)) - len(set(_lines(served)))
        print(
            f"{restarts} restarts repeated {repeated} calls, of {WORKERS} that may be in flight at each",
            file=sys.stderr,
        )
        return restarts if self.compare(out) and repeated <= WORKERS * restarts else 0

    def _out(self) -> Path:
        self._count += 1
        return self.folder / f"run{self._count}"


def _kill_workers(served: Path, kills: int, seed: int, windows: int) -> None:
    rng, goal = random.Random(seed), 0
    for _ in range(kills):
        goal += rng.randrange(2, windows // (kills + 1))
        while len(_lines(served)) < goal or not (workers := _workers()):
            time.sleep(0.01)
        os.kill(rng.choice(workers), signal.SIGKILL)


def _lines(path: Path) -> list[str]:
    return path.read_text().split() if path.is_file() else []


def _workers() -> list[int]:
    """Return the ids of the workers of Ray that descend from this process."""
    parents, workers = {}, []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(path.name)] = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            if (path / "cmdline").read_text().startswith("ray::MapWorker"):
                workers.append(int(path.name))
        except OSError:
            continue  # it has ended
    return [worker for worker in workers if _descends(worker, parents)]


def _descends(process: int, parents: dict[int, int]) -> bool:
    while process and process != os.getpid():
        process = parents.get(process, 0)
    return bool(process)


if __name__ == "__main__":
    main()
