"""Sliding windows over many queries in lock-step against one query after the other: batches, calls, wall time.

    python benchmarks/batching.py --lists retrieve_results_dl19.json.gz [--queries 43] [--model smollm2-135m]

`batches` are the lists of requests that the judge hands to the backend, `calls` the requests in them, counted by the
call log. `speedup` is one at a time / together: large is good.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rerank.backends.base import Reply, Request
from rerank.collections import open_collection
from rerank.judges import Limits, open_judge
from rerank.models import BackendOptions, open_backend
from rerank.pipeline import drive
from rerank.prompts import load_prompt
from rerank.retrieval import open_retriever
from rerank.store.calls import CallLog
from rerank.store.logged import Logged
from rerank.strategies import open_strategy


class Watched:
    """A backend that counts how often it is asked, before its log cuts what comes into the model's batches."""

    def __init__(self, logged: Logged) -> None:
        self._logged = logged
        self.batches = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._logged, name)

    def generate(self, requests: Sequence[Request]) -> list[Reply]:
        self.batches += 1
        return self._logged.generate(requests)


def main() -> None:
    """Run both ways and print one line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lists", type=Path, required=True, help="candidate lists with passage text")
    parser.add_argument("--queries", type=int, default=43)
    parser.add_argument("--timed-queries", type=int, default=8, help="queries of the timed comparison")
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--max-passage-tokens", type=int, default=32)
    parser.add_argument("--batch-size", type=int, default=None)
    options = parser.parse_args()
    collection = open_collection(f"requests:{options.lists}")
    queries = collection.queries()[: options.queries]
    lists = list(open_retriever("candidates", collection).search(queries, 100).values())
    batches, calls = run(open_backend("fake:reversed"), lists, options.max_passage_tokens)
    few = lists[: options.timed_queries]
    model = open_backend(options.model, BackendOptions(batch_size=options.batch_size))
    run(model, few[:1], options.max_passage_tokens)  # warms up
    together, alone = 0.0, 0.0
    for part in (few[: len(few) // 2], few[len(few) // 2 :]):  # in turns
        together += seconds(lambda part=part: run(model, part, options.max_passage_tokens))
        alone += sum(seconds(lambda one=one: run(model, [one], options.max_passage_tokens)) for one in part)
    print(
        json.dumps(
            {
                "queries": len(lists),
                "batches": batches,
                "calls": calls,
                "speedup": alone / together,
                "timed_queries": len(few),
                "seconds_together": together,
                "seconds_alone": alone,
                "batch_size": model.batch_size,
            }
        )
    )


def run(backend: Any, lists: Sequence[Any], tokens: int) -> tuple[int, int]:
    """Sliding windows over lists; returns how often the backend was asked, and the calls that the log counted."""
    with tempfile.TemporaryDirectory() as room, CallLog(Path(room) / "calls.sqlite") as log:
        watched = Watched(Logged(backend=backend, log=log))
        judge = open_judge("generate", watched, load_prompt("listwise"), Limits(max_passage_tokens=tokens))
        drive(lists, open_strategy("sliding"), judge)
        return watched.batches, len(log)


def seconds(action: Any) -> float:
    """How long it takes."""
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
