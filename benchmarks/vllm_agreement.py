"""Full ranking through vLLM and through transformers, both in float32: the same orders, or near ties.

    python benchmarks/vllm_agreement.py --lists retrieve_results_dl19.json.gz [--queries 20] [--depth 20]

Needs an environment with vLLM (`make test-vllm` makes one). Both write an order under the grammar that allows no
identifier twice. Where two orders differ, the gap is that between the logits of the two tokens at the first choice on
which they differ, as transformers computes them; a difference is explained if it is below 1e-3, for sums in another
order differ by as much. All that comes after such a choice may differ. `moved` counts the orders that are not the given
one, since two backends agree cheaply on leaving everything as it is; `seconds_over_hf` is vLLM's time / transformers',
small is good.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch

from rerank.backends.hf import Hf
from rerank.collections import open_collection
from rerank.judges import Limits, open_judge
from rerank.lm.jobs import Job
from rerank.lm.local_tasks import end_of_rendered_prompt, identifier_tokens
from rerank.models import BackendOptions, open_model_backend
from rerank.prompts import load_prompt
from rerank.tasks import Reply, Request
from rerank.types import Window

#: Logits nearer than this may change places between two programs in float32.
NEAR = 1e-3


def main() -> None:
    """Ask both, compare, print one line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lists", type=Path, required=True, help="candidate lists with passage text (requests format)")
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--prompt", default="listwise_examples")
    parser.add_argument("--queries", type=int, default=20)
    parser.add_argument("--depth", type=int, default=20)
    options = parser.parse_args()
    hf: Any = open_model_backend(f"hf:{options.model}", BackendOptions(dtype="float32"))
    requests = asked(hf, options)
    theirs, hf_seconds = timed(hf, requests)
    ours, seconds = timed(open_model_backend(f"vllm:{options.model}", BackendOptions(dtype="float32")), requests)
    pairs = list(zip(requests, ours, theirs, strict=True))
    gaps = [gap(hf, request, one, other) for request, one, other in pairs if one.text != other.text]
    for found in gaps:
        print(json.dumps(found))
    given = [" > ".join(request.task.items) for request in requests]  # type: ignore[union-attr]
    explained = sum(found["gap"] < NEAR for found in gaps)
    figures = {
        "queries": len(requests),
        "same_orders": len(requests) - len(gaps),
        "explained": explained,
        "unexplained": len(gaps) - explained,
        "largest_gap": max((found["gap"] for found in gaps), default=0.0),
        "moved": sum(reply.text != order for reply, order in zip(theirs, given, strict=True)),
        "tokens_in": sum(reply.tokens_in for reply in theirs),
        "seconds_over_hf": round(seconds / hf_seconds, 3),
    }
    print(json.dumps(figures))


def asked(hf: Hf, options: argparse.Namespace) -> list[Request]:
    """One request a query: its first documents, to be put in order."""
    lists: Any = open_collection(f"requests:{options.lists}")
    judge = open_judge("generate", hf, load_prompt(options.prompt), Limits())
    rankings = [ranking.top(options.depth) for ranking in lists.candidates().values()][: options.queries]
    return [request for ranking in rankings for request in judge.make_requests(Window(ranking.query, ranking.docs))]


def timed(backend: Any, requests: list[Request]) -> tuple[list[Reply], float]:
    """All replies, and the seconds that they took."""
    started = time.perf_counter()
    replies = backend.generate(requests)
    failed = [reply.error for reply in replies if reply.finish == "error"]
    if failed:
        raise SystemExit(f"{len(failed)} requests failed: {failed[0]}")
    return replies, time.perf_counter() - started


def gap(hf: Any, request: Request, ours: Reply, theirs: Reply) -> dict[str, Any]:
    """The first choice on which two orders differ, and how far apart its two tokens are to transformers."""
    (prompt,) = hf.tokens.encode([request.prompt])
    job = Job(index=0, request=request, prompt=prompt, sampling=request.sampling)
    task: Any = request.task
    first, later = identifier_tokens(
        hf.tokens, task.items, task.separator, end_of_rendered_prompt(hf.tokens, job), job.reply_prefix
    )
    one, other = (_written(reply, task, first, later) for reply in (ours, theirs))
    at = next(at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b)
    with torch.inference_mode():
        ids = torch.tensor([[*prompt, *other[:at]]])
        logits = hf.model(input_ids=ids, logits_to_keep=1).logits[0, -1].float()
    return {
        "query": request.window.query.id,
        "token": at,
        "gap": round(float(logits[other[at]] - logits[one[at]]), 6),
        "vllm": ours.text,
        "hf": theirs.text,
    }


def _written(reply: Reply, task: Any, first: Any, later: Any) -> list[int]:
    """The token ids of an order."""
    places = [task.items.index(item) for item in reply.text.split(task.separator)]
    return [token for rank, place in enumerate(places) for token in (later if rank else first)[place]]


if __name__ == "__main__":
    main()
