"""CPU seconds of one ranking by method and passage length, on a local model with one thread. The last line is JSON.

    OMP_NUM_THREADS=1 python benchmarks/latency.py [--methods fullrank,sliding] [--lengths 50,100,200]

Each figure is the median of `--repeat` lists of unseen passages of pydoc, cut to the same number of
tokens, after a warm-up. CPU seconds count all threads of the process, and hardly depend on what else the machine does.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from typing import Any

from rerank import Reranker
from rerank.collections import open_collection

METHODS = "fullrank,sliding,first,icr,qlm,pointwise"


def passages(tokens: Any, length: int, count: int) -> list[str]:
    """Texts of exactly ``length`` tokens, if the tokenizer restores them."""
    found = []
    for document in open_collection("pydoc").docs():
        if min(tokens.lengths([document.text])) >= length:
            found.append(tokens.cut(document.text, length))
        if len(found) == count:
            return found
    raise SystemExit(f"pydoc has only {len(found)} passages of {length} tokens")


def measure(reranker: Reranker, length: int, documents: int, repeat: int) -> dict[str, float]:
    texts = passages(reranker.backend.tokens, length, documents * (repeat + 1))
    cpu, wall, tokens = [], [], []
    for number in range(repeat + 1):
        began, began_cpu = time.perf_counter(), time.process_time()
        hits = reranker.rank(
            f"how to read a file of the type {number}", texts[number * documents : (number + 1) * documents]
        )
        if number:  # the first list warms up
            cpu.append(time.process_time() - began_cpu)
            wall.append(time.perf_counter() - began)
            tokens.append(hits.usage.tokens_in)
    return {
        "cpu_s": statistics.median(cpu),
        "cpu_min_s": min(cpu),
        "cpu_max_s": max(cpu),
        "wall_s": statistics.median(wall),
        "tokens_in": statistics.median(tokens),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--methods", default=METHODS, help="names of methods, separated by commas")
    parser.add_argument("--lengths", default="50,100,200", help="tokens per passage")
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--adapter", default="", help="measured instead of the methods")
    parser.add_argument("--documents", type=int, default=20)
    parser.add_argument("--repeat", type=int, default=3)
    options = parser.parse_args()
    rows = []
    names = [options.adapter] if options.adapter else options.methods.split(",")
    for name in names:
        settings = {"adapter": name} if options.adapter else {"model": options.model, "method": name}
        with Reranker.from_pretrained(**settings, max_passage_tokens=512) as reranker:
            reranker.warm_up()
            for length in map(int, options.lengths.split(",")):
                figures = measure(reranker, length, options.documents, options.repeat)
                rows.append({"method": name, "passage_tokens": length, **figures})
                print(json.dumps(rows[-1]), flush=True)
    print(json.dumps({"documents": options.documents, "rows": rows}))


if __name__ == "__main__":
    main()
