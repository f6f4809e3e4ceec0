"""Runs every script of benchmarks/, training/ and eval/ once on a few texts, so that none of them rots.

    python benchmarks/smoke.py [--only PART_OF_A_PATH ...]

`ARGUMENTS` has one row per script. Figures of such runs mean nothing; what counts is that a script ends with exit code
0. A script that needs an environment with vLLM, or minutes, only prints its help, and the drivers of peers run in other
environments; type checks cover the rest of them. A new script without a row is an error. Needs the extras hf, dense,
train and ray, the embedded models, and dpkg-deb. The last line is JSON.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from mutants import TESTS as MUTATED

from rerank.collections import open_collection
from rerank.experiment import run_experiment
from rerank.experiment.spec import Execution, RunSpec
from rerank.io.rerank_requests import format_request_row
from rerank.io.run_files import write_qrels, write_run
from rerank.retrieval import open_first_stage
from rerank.types import Qrels, Ranking, Run

ROOT = Path(__file__).resolve().parents[1]
HELP = "--help"
SOURCES = ROOT / "training" / "smollm2-135m-likelihood" / "sources.toml"
#: Digits of the offsets in the index of a dictionary (base 64).
DIGITS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
#: Script -> arguments; None if it needs another environment. ``{lists}`` and so on are the files that `write_data`
#: writes, and ``{out}`` is a new path per script.
ARGUMENTS: dict[str, str | None] = {
    "benchmarks/adjudication.py": "--runs {runs} --qrels {qrels} --seeds 1",
    "benchmarks/assessors.py": "--runs {runs} --people {qrels} --predicted {qrels} --topics 3 --resamples 5",
    "benchmarks/attention.py": "--repeat 1 --only passes --passages 3",
    "benchmarks/batching.py": "--collection requests:{lists} --queries 2 --timed-queries 1",
    "benchmarks/calls.py": "--documents 6",
    "benchmarks/choosing.py": "--data {data} --resamples 10",
    "benchmarks/decoding.py": "--documents 4 --tokens 32 --repeat 1 --skip-float32",
    "benchmarks/dl19.py": "--lists {lists} --qrels {qrels} --out {out} --queries 2 --depth 4",
    "benchmarks/evaluation.py": "--runs {runs} --qrels {qrels} --repeat 1",
    "benchmarks/evidence.py": "--data {data} --cases 2 --list-cases 1 --resamples 10",
    "benchmarks/first_stage.py": "--documents 200 --queries 5",
    "benchmarks/kernels.py": "",
    "benchmarks/levels.py": "--replications 4 --draws 19",
    "benchmarks/latency.py": "--methods sliding --lengths 10 --documents 3 --repeat 1",
    "benchmarks/library_choices.py": "--only bm25,plot,power,measures --documents 500 --repeat 1",
    "benchmarks/log_formats.py": "--queries 4 --batch 2",
    "benchmarks/mutants.py": "--root {mutants} --count 2",
    "benchmarks/pairs.py": f"{ROOT} --pairs 1 --only reading",
    "benchmarks/path.py": "--model fake:reversed",
    "benchmarks/peers.py": "--queries 1 --depth 3 --only 'hf pointwise'",
    "benchmarks/peers/run_llm_rankers.py": None,
    "benchmarks/peers/run_ours.py": None,
    "benchmarks/peers/run_rank_llm.py": None,
    "benchmarks/peers/run_rerankers.py": None,
    "benchmarks/prompt_prefixes.py": "--collection requests:{lists} --queries 2 --depth 4 --methods sliding",
    "benchmarks/prompts.py": "--collection requests:{lists} --queries 2 --methods sliding",
    "benchmarks/requests.py": "--calls 1 --requests 8 --queries 0 0",
    "benchmarks/retrieval.py": "--max-documents 10000 --only bm25s,flat",
    "benchmarks/reuse.py": "--lists {lists} --queries 1 --depth 3 --methods qlm --float32-queries 0",
    "benchmarks/scale_simulation.py": "--queries 200 --workers 1 2",
    "benchmarks/scaling.py": "--windows 10 --delay 0.01",
    "benchmarks/serving.py": "--requests 20 --clients 2 --delay 0.01 --minutes 0.2 --no-rate",
    "benchmarks/shards.py": "bm25 --documents 300 --shards 1:1,2:1 --queries 500",
    "benchmarks/significance.py": "--permutations 50",
    "benchmarks/sizes.py": "--most 2",
    "benchmarks/startup.py": "",
    "benchmarks/store.py": "--queries 3 --only-log",
    "benchmarks/strategies.py": "--lists {lists} --qrels {qrels} --oracle {run} --repeats {runs} --seeds 1",
    "benchmarks/training.py": "--child ours --steps 1 --documents 2",  # one of eight measurements
    "benchmarks/training_memory.py": "--layers 2",
    "benchmarks/training_layers.py": "--turns 1",
    "benchmarks/tuning.py": "--lists {labels} --collection jsonl:{work}/queries --validation {cranfield} --queries 6 "
    "--steps 1 --documents 3 --rates 1 --only lora --rows {out}",
    "benchmarks/rooflines.py": "",
    "benchmarks/runtimes.py": HELP,  # needs packages that no extra installs
    "benchmarks/vllm_agreement.py": HELP,
    "eval/leaderboard/fill_lists.py": "{run_folder} --lists {lists} --out {out}",
    "eval/leaderboard/minilm_runs.py": "--lists {lists} --out {out}",
    "eval/leaderboard/record_scores.py": "--board {board} --data {data} --out {out} {runs}",
    "training/ablation/ablation.py": HELP,  # takes minutes
    "training/smollm2-135m-attention/passages.py": "--wordnet {data}/wordnet --topics 1 --aspects 1 --out {out}",
    "training/smollm2-135m-attention/gather.py": "--out {out} --wordnet {data}/wordnet --cranfield {data}/cranfield "
    "--vaswani {data}/vaswani",
    "training/smollm2-135m-likelihood/agreement.py": "--work {out} --data {data} --system untrained@0/10",
    "training/smollm2-135m-likelihood/calibrate.py": "untrained --work {out} --data {data} --weight .5 --depth 6 "
    "--out {out}.json",
    "training/smollm2-135m-likelihood/corpus.py": "--packages {packages} --out {out}",
    "training/smollm2-135m-likelihood/search.py": "--work {work} --data {data} --only base --lists 1 --depth 6",
    "training/smollm2-135m-likelihood/tables.py": "lists --work {out} --data {data} --system untrained@.5/10",
    "training/smollm2-135m-likelihood/write_queries.py": "--corpus {work}/queries --out {out} --count 4 "
    "--against {cranfield}",
}


#: What the passages of the folders below are about, and what tells those of one topic apart.
TOPICS = ("kettle", "bridge", "violin", "lamp", "boat", "clock", "loom", "saddle", "anchor", "mirror", "drum", "tent")
KINDS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth")


def passage(topic: str, kind: str) -> str:
    """Return four sentences about a topic."""
    return (
        f"The {topic} is described first, in the {kind} edition of a handbook. Its parts are made of steel, of wood or "
        f"of {kind} glass. Most of them are used for many years by {kind} people. A {kind} repair costs less than a "
        f"new {topic}."
    )


def write_data(folder: Path) -> dict[str, str]:
    """Write everything that the scripts read, and return the placeholders."""
    lists = write_lists(folder)
    data, work, mutants, packages = (folder / name for name in ("data", "work", "mutants", "packages"))
    write_trec_data(data)
    write_smart_collections(data)
    write_training_data(work)
    write_checkout(mutants)
    write_packages(packages)
    board = folder / "board.toml"
    board.write_text(f'title = "T"\nqrels = "{lists["qrels"]}"\nmeasures = ["nDCG@10"]\n', encoding="utf-8")
    spec = RunSpec(collection=f"requests:{lists['lists']}", first_stage="candidates", model="fake:reversed")
    run_experiment(spec, Execution(out=folder / "reversed"))
    return {
        **lists,
        "data": str(data),
        "cranfield": f"cranfield:{data / 'cranfield'}",
        "work": str(work),
        "labels": str(work / "labels.jsonl"),
        "mutants": str(mutants),
        "packages": str(packages),
        "board": str(board),
        "run_folder": str(folder / "reversed"),
    }


def write_lists(folder: Path) -> dict[str, str]:
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


def write_trec_data(data: Path) -> None:
    """Write lists and judgments under the names that they have for TREC Deep Learning."""
    (data / "qrels").mkdir(parents=True)
    for year, topics in (("19", range(1, 7)), ("21", range(6, 13))):
        rows, qrels = [], []
        for number in topics:
            own = [passage(TOPICS[number - 1], kind) for kind in KINDS[:2]]
            others = [passage(TOPICS[(number + step) % len(TOPICS)], "third") for step in range(4)]
            hits = [
                {"qid": number, "docid": f"{number}-{rank}", "content": text, "score": 9 - rank}
                for rank, text in enumerate([*own, *others] if number % 2 else [*others, *own])
            ]
            rows.append({"query": f"what does a {TOPICS[number - 1]} cost", "hits": hits})
            qrels += [f"{number} 0 {hit['docid']} {3 if hit['content'] in own else 0}" for hit in hits]
        for stage in ("BM25", "SPLADE_P_P_ENSEMBLE_DISTIL"):
            file = data / "msmarco_candidates" / stage / f"retrieve_results_dl{year}.json.gz"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(gzip.compress(json.dumps(rows).encode()))
        text = "\n".join(qrels).encode()
        file = data / "qrels" / f"qrels.dl{year}-passage.txt"
        if year == "19":
            file.write_bytes(text)
        else:
            file.with_name(f"{file.name}.gz").write_bytes(gzip.compress(text))


def write_smart_collections(data: Path) -> None:
    """Write Cranfield and Vaswani in their own formats, and the nouns of WordNet."""
    texts = [(topic, passage(topic, kind)) for topic in TOPICS for kind in KINDS[:3]]
    queries = [f"how much is the repair of a {topic}" for topic in TOPICS[:6]]
    cranfield, vaswani, wordnet = (data / name for name in ("cranfield", "vaswani", "wordnet"))
    for folder in (cranfield, vaswani, wordnet):
        folder.mkdir()
    docs = (f".I {n}\n.T\nabout the {topic} {n}\n.A\n.B\n.W\n{text}\n" for n, (topic, text) in enumerate(texts, 1))
    (cranfield / "cran.all.1400").write_text("".join(docs), encoding="utf-8")
    topics = (f".I {n}\n.W\n{text}\n" for n, text in enumerate(queries, 1))
    (cranfield / "cran.qry").write_text("".join(topics), encoding="utf-8")
    grades = [(query, 3 * query - 2 + at, at + 1) for query in range(1, 7) for at in range(3 - query % 2)]
    (cranfield / "cranqrel").write_text("".join(f"{q} {doc} {grade}\n" for q, doc, grade in grades), encoding="utf-8")
    docs = (f"<DOC>\n<DOCNO>{n}</DOCNO>\n{text}\n</DOC>\n" for n, (_, text) in enumerate(texts, 1))
    (vaswani / "doc-text.trec.gz").write_bytes(gzip.compress("".join(docs).encode()))
    topics = (f"<top>\n<num>{n}</num><title>{text}</title>\n</top>\n" for n, text in enumerate(queries, 1))
    (vaswani / "query-text.trec").write_text("".join(topics), encoding="utf-8")
    (vaswani / "qrels").write_text("".join(f"{q} 0 {doc} 1\n" for q, doc, _ in grades), encoding="utf-8")
    nouns = (f"{n:08} 06 n 01 {topic} 0 000 | a thing; {passage(topic, 'first')}\n" for n, topic in enumerate(TOPICS))
    (wordnet / "data.noun").write_text("".join(nouns), encoding="utf-8")


def write_training_data(work: Path) -> None:
    """Write a collection and a teacher's lists about it."""
    (work / "queries").mkdir(parents=True)
    ids = [f"{topic}-{kind}" for topic in TOPICS for kind in KINDS]
    docs = ({"id": doc, "title": "", "text": passage(*doc.split("-"))} for doc in ids)
    queries = ({"id": topic, "text": f"how much is the repair of a {topic}"} for topic in TOPICS)
    ranked = {topic: [doc for doc in ids if doc.startswith(topic)] for topic in TOPICS[:2]}
    lists = (
        {"qid": topic, "initial_list": found, "final_list": found[::-1], "scores": list(range(len(found)))}
        for topic, found in ranked.items()
    )
    for path, rows in (("queries/docs.jsonl", docs), ("queries/queries.jsonl", queries), ("labels.jsonl", lists)):
        (work / path).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def write_checkout(root: Path) -> None:
    """Write a package with one function in each part that is mutated, and tests that notice nothing."""
    for package in MUTATED:
        source, tests = root / "rerank" / package, root / "tests" / package
        tests.mkdir(parents=True)
        source.mkdir(parents=True)
        (source / "code.py").write_text("def more(number):\n    return number + 1\n", encoding="utf-8")
        (tests / "test_code.py").write_text("def test_nothing():\n    pass\n", encoding="utf-8")
    (root / "rerank" / "__init__.py").touch()


def write_packages(folder: Path) -> None:
    """Write the Debian packages of sources.toml, each with one text."""
    folder.mkdir()
    text = " ".join(passage(topic, "first") for topic in TOPICS)
    head = f"{TOPICS[0]}\tA\t{DIGITS[len(text) // 64]}{DIGITS[len(text) % 64]}\n"
    for source in tomllib.loads(SOURCES.read_text(encoding="utf-8"))["source"]:
        if "package" not in source:
            continue
        root = folder / source["package"]
        file = root / source["files"].replace("*", "page")
        file.parent.mkdir(parents=True)
        if file.name.endswith(".dict.dz"):
            file.write_bytes(gzip.compress(text.encode()))
            Path(str(file).replace(".dict.dz", ".index")).write_text(head, encoding="utf-8")
        else:
            file.write_text(f"<html><title>T</title><p>{text}</p></html>", encoding="utf-8")
        (root / "DEBIAN").mkdir()
        control = f"Package: {source['package']}\nVersion: 1\nArchitecture: all\n"
        control += "Maintainer: M <m@example.org>\nDescription: D\n"
        (root / "DEBIAN" / "control").write_text(control, encoding="utf-8")
        command = ["dpkg-deb", "-Znone", "--build", str(root), f"{folder}/{source['package']}_1_all.deb"]
        subprocess.run(command, check=True, capture_output=True)


def is_script(path: Path) -> bool:
    """Return whether a file is run by itself."""
    return 'if __name__ == "__main__"' in path.read_text(encoding="utf-8") and path != Path(__file__).resolve()


def run(command: Sequence[str]) -> str:
    """Run a script, print its seconds and, if it fails, what it printed; return its path if it failed."""
    started = time.perf_counter()
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *command], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    line = f"{time.perf_counter() - started:6.1f} s  {' '.join(command)}"[:150]
    print("\n".join([line, done.stdout[-1000:], done.stderr[-3000:]] if done.returncode else [line]), flush=True)
    return command[0] if done.returncode else ""


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
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as temporary, ThreadPoolExecutor(os.cpu_count()) as pool:
        folder = Path(temporary)
        data = write_data(folder)
        commands = [
            [script, *shlex.split(arguments.format(out=folder / f"out{number}", **data))]
            for number, (script, arguments) in enumerate(ARGUMENTS.items())
            if arguments is not None and (not options.only or any(part in script for part in options.only))
        ]
        failed = [script for script in pool.map(run, commands) if script]
    print(json.dumps({"scripts": len(ARGUMENTS), "failed": failed, "seconds": round(time.perf_counter() - began)}))
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
