"""How much of every method's prompts a provider's or server's prompt cache can save, counted without any model.

    python benchmarks/prompt_prefixes.py [--collection requests:retrieve_results_dl19.json.gz] [--queries 10]

Every list is reranked with drawn replies, one list after the other. A prompt cache reuses the longest beginning that a
prompt shares with an earlier one. The columns are shares of all prompt tokens: `query`, shared with the previous
request of the same query; `other`, shared with the last request of the query before; `vllm`, in a cache of all earlier
requests with blocks of 16 tokens; `openai`, in one that holds beginnings of at least 1,024 tokens, in steps of 128.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterator, Sequence
from typing import Any

from prompts import HostOnly, reply_to

from rerank.collections import open_collection
from rerank.judges import Limits, open_judge
from rerank.lm.tokenizers import HfTokens
from rerank.methods import open_method
from rerank.models import resolve_model_name
from rerank.pipeline.stream import rank_together
from rerank.prompts import load_prompt
from rerank.retrieval import open_first_stage
from rerank.strategies import open_strategy
from rerank.tasks import GenerationTask, PermutationTask, Reply, Request
from rerank.types import Ranking

METHODS = (
    *("fullrank", "sliding", "topdown", "tourrank", "setwise", "setwise-bubble", "pairwise", "pairwise-sliding"),
    *("first", "first-full", "pointwise", "qlm", "icr"),
)
#: (Minimum, step) in tokens of what a cache holds: vLLM's default block; the minimum and step that OpenAI documents.
CACHES = {"vllm": (16, 16), "openai": (1024, 128)}


class Recorder(HostOnly):
    """A backend that keeps the token ids of its prompts and draws replies."""

    def generate(self, requests: Sequence[Request]) -> list[Reply]:
        self.prompts += self.tokens.encode([request.prompt for request in requests])
        return [drawn_reply(request) for request in requests]


def drawn_reply(request: Request) -> Reply:
    """Return a valid reply that depends only on the documents of a request."""
    if not isinstance(request.task, GenerationTask) or isinstance(request.task, PermutationTask):
        return reply_to(request)
    draw = random.Random(" ".join(doc.id for doc in request.window.docs))
    order = draw.sample(range(1, len(request.window) + 1), len(request.window))
    return Reply(text=" > ".join(f"[{n}]" for n in order))


def shared(first: Sequence[int], second: Sequence[int]) -> int:
    """Return the number of tokens at the beginning that two prompts share."""
    pairs = enumerate(zip(first, second, strict=False))
    return next((at for at, (one, other) in pairs if one != other), min(len(first), len(second)))


def main() -> None:
    """Count for all methods, print one line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--collection", default="pydoc", help="candidates of their own (requests:FILE), else BM25's")
    parser.add_argument("--queries", type=int, default=10)
    parser.add_argument("--depth", type=int, default=100)
    parser.add_argument("--model", default="smollm2-135m", help="whose tokenizer counts")
    parser.add_argument("--methods", nargs="*", default=METHODS)
    options = parser.parse_args()
    from transformers import AutoTokenizer

    collection = open_collection(options.collection)
    first_stage = "candidates" if options.collection.startswith("requests:") else "bm25"
    queries = collection.queries()[: options.queries]
    lists = list(open_first_stage(first_stage, collection).search(queries, options.depth).values())
    tokenizer = AutoTokenizer.from_pretrained(resolve_model_name(options.model))
    rows = {}
    for method in options.methods:
        rows[method] = row = measured(list(prompts_of(method, lists, tokenizer)))
        print(method, json.dumps(row))
    print(json.dumps({"lists": len(lists), "depth": options.depth, "methods": rows}))


def prompts_of(method: str, lists: Sequence[Ranking], tokenizer: Any) -> Iterator[list[Sequence[int]]]:
    """Yield the prompts of each list, as token ids, in the order in which they are sent."""
    card = open_method(method)
    for ranking in lists:
        backend: Any = Recorder(HfTokens(tokenizer, context_size=131072))
        judge = open_judge(card.judge, backend, load_prompt(card.own_prompt or "listwise"), Limits())
        rank_together([ranking], open_strategy(card.strategy), judge, backend)
        yield backend.prompts


def measured(lists: Sequence[Sequence[Sequence[int]]]) -> dict[str, float]:
    """Return the number of calls and tokens per list, and the shares."""
    saved = dict.fromkeys(("query", "other", *CACHES), 0)
    held: dict[str, set[int]] = {name: set() for name in CACHES}
    before: Sequence[int] = ()
    for prompts in lists:
        for at, prompt in enumerate(prompts):
            saved["other"] += shared(prompt, before)
            saved["query"] += shared(prompt, prompts[at - 1]) if at else 0
            for name, (least, step) in CACHES.items():
                keys = {length: hash(tuple(prompt[:length])) for length in range(least, len(prompt) + 1, step)}
                saved[name] += max((length for length, key in keys.items() if key in held[name]), default=0)
                held[name] |= set(keys.values())
        before = prompts[-1]
    total = sum(len(prompt) for prompts in lists for prompt in prompts)
    calls = sum(map(len, lists))
    shares = {name: round(count / total, 4) for name, count in saved.items()}
    return {"calls": round(calls / len(lists), 1), "tokens": round(total / len(lists)), **shares}


if __name__ == "__main__":
    main()
