"""Sliding windows over many queries in lock-step against one query after the other: batches, calls, wall time.

    python benchmarks/batching.py [--collection requests:retrieve_results_dl19.json.gz] [--queries 43]

`batches` are the lists of requests that the judge hands to the backend, `calls` the requests in them, counted by the
call log. `speedup` is one at a time / together: large is good.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from counting import counted

from rerank.collections import open_collection
from rerank.judges import Limits
from rerank.models import BackendOptions, open_model_backend
from rerank.retrieval import open_first_stage


def main() -> None:
    """Run both ways and print one line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--collection", default="pydoc", help="candidates of their own (requests:FILE), else BM25's")
    parser.add_argument("--queries", type=int, default=43)
    parser.add_argument("--timed-queries", type=int, default=8, help="queries of the timed comparison")
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--max-passage-tokens", type=int, default=32)
    parser.add_argument("--batch-size", type=int, default=None)
    options = parser.parse_args()
    collection = open_collection(options.collection)
    first_stage = "candidates" if options.collection.startswith("requests:") else "bm25"
    queries = collection.queries()[: options.queries]
    lists = list(open_first_stage(first_stage, collection).search(queries, 100).values())
    limits = Limits(max_passage_tokens=options.max_passage_tokens)
    calls, batches = counted("sliding", open_model_backend("fake:reversed"), lists, limits)
    few = lists[: options.timed_queries]
    model = open_model_backend(options.model, BackendOptions(batch_size=options.batch_size))
    counted("sliding", model, few[:1], limits)  # warms up
    together, alone = 0.0, 0.0
    for part in (few[: len(few) // 2], few[len(few) // 2 :]):  # in turns
        together += seconds(partial(counted, "sliding", model, part, limits))
        alone += sum(seconds(partial(counted, "sliding", model, [one], limits)) for one in part)
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


def seconds(action: Callable[[], Any]) -> float:
    """How long it takes."""
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
