"""Our methods against those of peers that install: seconds a query, documents lost, replies malformed, nDCG@10.

    python benchmarks/peers.py [--queries 5] [--depth 20] [--peer rank_llm=PYTHON] [--peer vllm=PYTHON] ...
    python benchmarks/peers.py --collection requests:LISTS.json.gz --qrels QRELS ...

All get the same lists of the same texts and run the same model in the same number type on the processor, one query
after the other, each system in a process of its own and each peer, unmodified, in an environment of its own
(benchmarks/peers/README.md says how to make them). Prompts, batches and decoding are each system's own. Loading is not
timed.

`seconds_per_query` and `cpu_per_query` small is good; `over_ours` and `cpu_over_ours`, a peer's figure / that of the
counterpart of ours that its row names, are good above 1. `calls_per_query` are prompts: sorting asks fewer where a
model's replies say little, and prompts differ in length, so compare CPU time per call and per token there.
`lost_documents` and `duplicates` count, over all queries, the given documents that an answer lacks and those that it
repeats; 0 is right. `malformed` counts the replies that are not complete permutations as asked, of `replies`; null
where a method reads scores. What did not run is in `not_run` with its reason, and has no row.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rerank.collections import open_collection, open_collection_qrels
from rerank.evaluation import evaluate_run
from rerank.models import resolve_model_name
from rerank.parsing import parse_permutation
from rerank.retrieval import open_first_stage
from rerank.types import Document, Qrels, Ranking, Run

MEASURE = "nDCG@10"
#: A peer's figure / ours, good above 1: end to end by the clock and by CPU time, and per unit of the same work.
RATIOS = {
    "seconds_per_query": "over_ours",
    "cpu_per_query": "cpu_over_ours",
    "cpu_per_call": "cpu_per_call_over_ours",
    "cpu_per_1000_tokens": "cpu_per_token_over_ours",
}
DRIVERS = Path(__file__).parent / "peers"
MADE = "python3 -m venv ENV && ENV/bin/pip install -r benchmarks/peers/{}.txt"
#: How to make each environment; `vllm` is our own package beside vLLM.
SETUPS = {
    "rank_llm": "python3.12 -m venv ENV && ENV/bin/pip install -r tests/vllm/requirements.txt rank-llm==0.26.0 && "
    "ENV/bin/pip uninstall -y torchaudio torchcodec",
    "llm-rankers": MADE.format("transformers4"),
    "rerankers": MADE.format("transformers5"),
    "rerankers4": MADE.format("transformers4"),
    "vllm": "make test-vllm, which leaves it in .venv-vllm",
}
#: No hub is asked; vLLM's cache has one size for all, for left to itself it takes most of the memory.
ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "VLLM_CPU_KVCACHE_SPACE": "3",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
}


@dataclass(frozen=True)
class System:
    """One method of one package.

    Attributes:
        package: Whose it is.
        method: What its driver calls it.
        environment: Where it runs; ``hf`` is this interpreter.
        driver: File that runs there.
        ours: For a peer, the backend and method of ours that do the same.
    """

    package: str
    method: str
    environment: str
    driver: str = "run_ours.py"
    ours: str = ""

    @property
    def name(self) -> str:
        """What its row is called."""
        return f"{self.package} {self.method}"


PEERS = (
    System("rank_llm", "sliding", "rank_llm", "run_rank_llm.py", "vllm sliding"),
    System("rank_llm", "first", "rank_llm", "run_rank_llm.py", "vllm first"),
    System("llm-rankers", "sliding", "llm-rankers", "run_llm_rankers.py", "hf sliding"),
    System("llm-rankers", "setwise", "llm-rankers", "run_llm_rankers.py", "hf setwise"),
    System("llm-rankers", "pairwise", "llm-rankers", "run_llm_rankers.py", "hf pairwise"),
    System("llm-rankers", "pointwise", "llm-rankers", "run_llm_rankers.py", "hf pointwise"),
    System("rerankers", "rankgpt", "rerankers", "run_rerankers.py", "hf fullrank"),
    System("rerankers", "pointwise", "rerankers4", "run_rerankers.py", "hf pointwise"),
)
METHODS = ("sliding", "sliding-free", "fullrank", "fullrank-free", "first", "setwise", "pairwise", "pointwise", "icr")
OURS = tuple(System("listrank", f"{backend} {method}", backend) for backend in ("hf", "vllm") for method in METHODS)


def main() -> None:
    """Run all systems, print one line."""
    options = parsed()
    rankings, qrels = given(options)
    print(json.dumps({"lists": described(options, rankings, qrels)}), flush=True)
    pythons = {"hf": sys.executable, **dict(pair.split("=", 1) for pair in options.peer)}
    if unknown := set(pythons) - {"hf"} - set(SETUPS):
        raise SystemExit(f"--peer {', '.join(sorted(unknown))}: expected {', '.join(SETUPS)}")
    rows: list[dict[str, Any]] = []
    not_run: list[dict[str, str]] = []
    for system in in_turns():
        if options.only and system.method not in options.only:
            continue
        answer = asked(system, pythons.get(system.environment, ""), options, rankings)
        if "error" in answer:
            not_run.append({"system": system.name, "reason": answer["error"]})
        else:
            rows.append({"system": system.name, **row(answer, rankings, qrels)})
        print(json.dumps((not_run if "error" in answer else rows)[-1]), file=sys.stderr, flush=True)
    print(json.dumps({"rows": compared(rows), "not_run": not_run}))


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--collection", default="pydoc", help="its own lists if it brings some, else those of BM25")
    parser.add_argument("--qrels", default="", help="judgments, if the collection brings none")
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--queries", type=int, default=5)
    parser.add_argument("--depth", type=int, default=20)
    parser.add_argument("--window", type=int, default=10)
    parser.add_argument("--stride", type=int, default=5)
    parser.add_argument("--top", type=int, default=10, help="how many setwise and pairwise put in order")
    parser.add_argument("--words", type=int, default=300, help="of a text; three of the peers' methods cut there")
    parser.add_argument("--peer", action="append", default=[], metavar="NAME=PYTHON", help=", ".join(SETUPS))
    parser.add_argument("--only", action="append", default=[], metavar="METHOD", help="such as 'setwise', 'hf setwise'")
    parser.add_argument("--limit", type=float, default=1800, help="seconds for one system, loading included")
    parser.add_argument("--keep", type=Path, help="folder for the orders, answers and logs")
    return parser.parse_args()


def given(options: argparse.Namespace) -> tuple[list[Ranking], Qrels]:
    """The lists, each text in one piece and cut to the same words for all, and their judgments."""
    collection: Any = open_collection(options.collection)
    qrels = open_collection_qrels(options.qrels)[0] if options.qrels else collection.qrels()
    queries = [query for query in collection.queries() if query.id in qrels][: options.queries]
    stage = "candidates" if hasattr(collection, "candidates") else "bm25"
    run = open_first_stage(stage, collection).search(queries, options.depth)
    rankings = [
        Ranking.from_order(found.query, [shown(doc, options.words) for doc in found.docs]) for found in run.values()
    ]
    return rankings, Qrels({ranking.query.id: qrels[ranking.query.id] for ranking in rankings})


def shown(doc: Document, words: int) -> Document:
    """A document without a title: some peers know none."""
    return Document(id=doc.id, text=" ".join(doc.full_text.split()[:words]))


def described(options: argparse.Namespace, rankings: Sequence[Ranking], qrels: Qrels) -> dict[str, Any]:
    """What all systems get, and what it is worth before."""
    asked = {
        key: value for key, value in vars(options).items() if key not in ("peer", "only", "limit", "keep", "qrels")
    }
    return {**asked, "queries": len(rankings), "cores": os.cpu_count(), MEASURE: measured(rankings, qrels)}


def in_turns() -> Iterable[System]:
    """Every peer's method followed by its counterpart, for a machine's speed changes in time; then the rest of ours."""
    ours = {system.method: system for system in OURS}
    for peer in PEERS:
        yield peer
        if peer.ours in ours:
            yield ours.pop(peer.ours)
    yield from ours.values()


def order(system: System, options: argparse.Namespace, rankings: Sequence[Ranking]) -> dict[str, Any]:
    """What a driver is handed; ours knows its models by name, and then the prompt that suits them."""
    lists = [
        {
            "query": {"id": ranking.query.id, "text": ranking.query.text},
            "docs": [{"id": doc.id, "text": doc.text} for doc in ranking.docs],
        }
        for ranking in rankings
    ]
    same = {key: getattr(options, key) for key in ("dtype", "window", "stride", "top")}
    model = str(resolve_model_name(options.model)) if system.ours else options.model
    return {"system": system.method, "model": model, **same, "lists": lists}


def asked(system: System, python: str, options: argparse.Namespace, rankings: Sequence[Ranking]) -> dict[str, Any]:
    """Run a driver; its answer, or the error in one line."""
    if not python:
        name = system.environment
        return {"error": f"no environment was given with --peer {name}=ENV/bin/python; to make it: {SETUPS[name]}"}
    with tempfile.TemporaryDirectory() as room:
        folder = (options.keep or Path(room)).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        stem = system.name.replace(" ", "-")
        order_file, answer_file, log = (folder / f"{stem}.{kind}" for kind in ("order.json", "answer.json", "log"))
        order_file.write_text(json.dumps(order(system, options, rankings)), encoding="utf-8")
        answer_file.unlink(missing_ok=True)
        ended = finished([python, str(DRIVERS / system.driver), str(order_file), str(answer_file)], log, options.limit)
        if answer_file.is_file():
            return dict(json.loads(answer_file.read_text(encoding="utf-8")))
        said = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
        return {"error": f"{ended}; its last line: {said[-1].strip() if said else ''}"}


def finished(command: Sequence[str], log: Path, limit: float) -> str:
    """Run a command and all that it starts, at most so long; how it ended."""
    with log.open("wb") as out:
        try:
            process = subprocess.Popen(
                command, stdout=out, stderr=subprocess.STDOUT, env=os.environ | ENVIRONMENT, start_new_session=True
            )
        except OSError as error:
            return f"{command[0]} does not start: {error.strerror}"
        try:
            return f"exit code {process.wait(limit)}"
        except subprocess.TimeoutExpired:
            return f"not done after {limit:g} s"
        finally:  # servers and engines that it left behind would slow down the next
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def row(answer: Mapping[str, Any], rankings: Sequence[Ranking], qrels: Qrels) -> dict[str, Any]:
    """The figures of one system."""
    lost = duplicates = 0
    orders = []
    for ranking in rankings:
        ids, docs = answer["rankings"][ranking.query.id], {doc.id: doc for doc in ranking.docs}
        lost += len(docs.keys() - set(ids))
        duplicates += len(ids) - len(set(ids))
        orders.append(Ranking.from_order(ranking.query, [docs[one] for one in dict.fromkeys(ids) if one in docs]))
    replies = answer["replies"] + len(answer["raw"])
    malformed = answer["malformed"] + sum(
        parse_permutation(text, count).status != "ok" for text, count in answer["raw"]
    )
    calls, seconds, queries = answer["calls"] or replies, sum(answer["seconds"]), len(answer["seconds"])
    tokens = answer["prompt_tokens"] + answer["reply_tokens"]
    return {
        "seconds_per_query": round(seconds / queries, 3),
        "cpu_per_query": round(answer["cpu_seconds"] / queries, 3),
        "calls_per_query": round(calls / queries, 1) if calls else None,
        "prompt_tokens_per_query": round(answer["prompt_tokens"] / queries) if tokens else None,
        "reply_tokens_per_query": round(answer["reply_tokens"] / queries) if tokens else None,
        "cpu_per_call": round(answer["cpu_seconds"] / calls, 4) if calls else None,
        "cpu_per_1000_tokens": round(1000 * answer["cpu_seconds"] / tokens, 4) if tokens else None,
        "lost_documents": lost,
        "duplicates": duplicates,
        "malformed": malformed if replies else None,
        "replies": replies,
        "counted_by": answer["counted_by"],
        MEASURE: measured(orders, qrels),
        "version": answer["version"],
    }


def measured(rankings: Iterable[Ranking], qrels: Qrels) -> float:
    """The mean over the queries asked."""
    return round(evaluate_run(qrels, Run(rankings), [MEASURE]).mean(MEASURE), 4)


def compared(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The rows, those of peers with the counterpart of ours and the ratios of times, where it ran."""
    by_name = {row["system"]: row for row in rows}
    ours = {peer.name: f"listrank {peer.ours}" for peer in PEERS}

    def ratios(row: Mapping[str, Any]) -> dict[str, Any]:
        own = by_name.get(ours.get(row["system"], ""))
        if own is None:
            return {}
        known = {key: name for key, name in RATIOS.items() if row[key] and own[key]}
        return {"counterpart": own["system"], **{name: round(row[key] / own[key], 2) for key, name in known.items()}}

    return [{**row, **ratios(row)} for row in rows]


if __name__ == "__main__":
    main()
