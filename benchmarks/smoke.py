"""Runs every script of benchmarks/, training/ and eval/ once on a few texts, so that none of them rots.

    python benchmarks/smoke.py [--only PART_OF_A_PATH ...]

`ARGUMENTS` has one row per script. Figures of such runs mean nothing; what counts is that a script ends with exit code
0. A script that needs what this machine lacks (an environment with a peer or with vLLM, Debian packages with texts,
the embedded models for hours) only prints its help; type checks cover the rest of it. A new script without a row is an
error. Needs the extras hf, dense and train, and the embedded models. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rerank.collections import open_collection
from rerank.io.rerank_requests import format_request_row
from rerank.io.run_files import write_qrels, write_run
from rerank.retrieval import open_first_stage
from rerank.types import Qrels, Ranking, Run

ROOT = Path(__file__).resolve().parents[1]
HELP = "--help"
#: Script -> arguments; None if it needs another environment. ``{lists}`` and so on are the files that `write_data`
#: writes, and ``{out}`` is a new path per script.
ARGUMENTS = {
    "benchmarks/adjudication.py": "--runs {runs} --qrels {qrels} --seeds 1",
    "benchmarks/assessors.py": "--runs {runs} --people {qrels} --predicted {qrels} --topics 3 --resamples 5",
    "benchmarks/attention.py": "--repeat 1 --only passes",
    "benchmarks/batching.py": "--collection requests:{lists} --queries 2 --timed-queries 1",
    "benchmarks/calls.py": "--documents 6",
    "benchmarks/decoding.py": "--documents 4 --tokens 32 --repeat 1 --skip-float32",
    "benchmarks/dl19.py": "--lists {lists} --qrels {qrels} --out {out} --queries 2 --depth 4",
    "benchmarks/evaluation.py": "--runs {runs} --qrels {qrels} --repeat 1",
    "benchmarks/evidence.py": HELP,
    "benchmarks/first_stage.py": "--documents 200 --queries 5",
    "benchmarks/latency.py": "--methods sliding --lengths 10 --documents 3 --repeat 1",
    "benchmarks/library_choices.py": "--only power,measures --repeat 1",
    "benchmarks/log_formats.py": "--queries 4 --batch 2",
    "benchmarks/mutants.py": HELP,
    "benchmarks/path.py": "--model fake:reversed",
    "benchmarks/peers.py": HELP,
    "benchmarks/peers/run_llm_rankers.py": None,
    "benchmarks/peers/run_ours.py": None,
    "benchmarks/peers/run_rank_llm.py": None,
    "benchmarks/peers/run_rerankers.py": None,
    "benchmarks/prompt_prefixes.py": "--collection requests:{lists} --queries 2 --depth 4 --methods sliding",
    "benchmarks/prompts.py": "--collection requests:{lists} --queries 2 --methods sliding",
    "benchmarks/requests.py": "--calls 1 --requests 8 --queries 0 0",
    "benchmarks/retrieval.py": HELP,
    "benchmarks/reuse.py": "--lists {lists} --queries 1 --depth 3 --methods qlm --float32-queries 0",
    "benchmarks/scale_simulation.py": "--queries 200 --workers 1 2",
    "benchmarks/scaling.py": HELP,
    "benchmarks/serving.py": "--requests 20 --clients 2 --delay 0.01 --minutes 0.2 --no-rate",
    "benchmarks/shards.py": "bm25 --documents 300 --shards 1:1,2:1 --queries 5",
    "benchmarks/significance.py": "--permutations 50",
    "benchmarks/sizes.py": "--most 2",
    "benchmarks/startup.py": "",
    "benchmarks/store.py": "--queries 3 --only-log",
    "benchmarks/strategies.py": "--lists {lists} --qrels {qrels} --oracle {run} --repeats {runs} --seeds 1",
    "benchmarks/training.py": "--steps 1 --sizes 2 3",
    "benchmarks/training_layers.py": "--turns 1",
    "benchmarks/tuning.py": HELP,
    "benchmarks/vllm_agreement.py": HELP,
    "eval/leaderboard/fill_lists.py": HELP,
    "eval/leaderboard/minilm_runs.py": "--lists {lists} --out {out}",
    "eval/leaderboard/record_scores.py": HELP,
    "training/ablation/ablation.py": HELP,
    "training/smollm2-135m-attention/passages.py": HELP,
    "training/smollm2-135m-attention/gather.py": "--out {out}",
    "training/smollm2-135m-likelihood/agreement.py": HELP,
    "training/smollm2-135m-likelihood/calibrate.py": HELP,
    "training/smollm2-135m-likelihood/corpus.py": HELP,
    "training/smollm2-135m-likelihood/search.py": HELP,
    "training/smollm2-135m-likelihood/tables.py": HELP,
    "training/smollm2-135m-likelihood/write_queries.py": HELP,
}


def write_data(folder: Path) -> dict[str, str]:
    """Write lists, judgments and runs of six queries about Python's library, and return the placeholders."""
    collection = open_collection("pydoc")
    qrels = collection.qrels()
    queries = [query for query in collection.queries() if query.id in qrels][:6]
    run = open_first_stage("bm25", collection).search(queries, 6)
    with (folder / "lists.jsonl").open("w", encoding="utf-8") as file:
        for ranking in run.values():
            file.write(json.dumps(format_request_row(ranking, ranking)) + "\n")
    write_qrels(Qrels({query.id: qrels[query.id] for query in queries}), folder / "qrels.txt")
    (folder / "runs").mkdir()
    runs = []
    for name, step in (("bm25", 1), ("reversed", -1)):
        reordered = (Ranking.from_ids(r.query, r.doc_ids[::step], range(len(r), 0, -1)) for r in run.values())
        runs.append(folder / "runs" / f"{name}.trec")
        write_run(Run(reordered, name=name), runs[-1])
    return {
        "lists": str(folder / "lists.jsonl"),
        "qrels": str(folder / "qrels.txt"),
        "run": str(runs[0]),
        "runs": " ".join(map(str, runs)),
    }


def is_script(path: Path) -> bool:
    """Return whether a file is run by itself."""
    return 'if __name__ == "__main__"' in path.read_text(encoding="utf-8") and path != Path(__file__).resolve()


def main() -> None:
    """Run the scripts, and end with exit code 1 if one of them fails."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", default=[], help="parts of paths")
    options = parser.parse_args()
    found = {
        str(path.relative_to(ROOT))
        for name in ("benchmarks", "training", "eval")
        for path in (ROOT / name).rglob("*.py")
        if is_script(path)
    }
    if lacking := found ^ set(ARGUMENTS):
        raise SystemExit(f"{', '.join(sorted(lacking))}: every script, and nothing else, has a row in ARGUMENTS")
    failed: list[str] = []
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        data = write_data(folder)
        for number, (script, arguments) in enumerate(ARGUMENTS.items()):
            if arguments is None or (options.only and not any(part in script for part in options.only)):
                continue
            command = [sys.executable, script, *arguments.format(out=folder / f"out{number}", **data).split()]
            started = time.perf_counter()
            done = subprocess.run(
                command,
                cwd=ROOT,
                env=os.environ | {"OMP_NUM_THREADS": "1"},
                capture_output=True,
                text=True,
                check=False,
            )
            print(f"{time.perf_counter() - started:6.1f} s  {' '.join(command[1:])}"[:150], flush=True)
            if done.returncode:
                failed.append(script)
                print(done.stdout[-1000:], done.stderr[-3000:], sep="\n", flush=True)
    print(json.dumps({"scripts": len(ARGUMENTS), "failed": failed, "seconds": round(time.perf_counter() - began)}))
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
