"""Prompt prefixes computed once against every prompt computed from its first token: tokens, CPU time, orders.

    OMP_NUM_THREADS=1 python benchmarks/reuse.py --lists retrieve_results_dl19.json.gz [--queries 2] [--methods qlm ...]

Both sides answer every batch of a method, in turns first and second, and the method goes on with the answers of the
side that reuses prefixes. `asked` are the prompt tokens of all requests, `computed` those that were processed; the
store is empty when a method begins. `unique_share` is the least that any reuse could compute. `speedup` is the CPU
time without reuse / with reuse: large is good. Times and tokens are those of `--dtype`. `calls_differ` is the share of
calls whose first choice differs between the sides (whose text differs, if an order is generated), `pairs_differ` the
share of pairs of documents that their scores order differently. The row `float32` repeats everything on
`--float32-queries`; scores closer than 1e-4 count as equal there, so both shares must be 0. `same_bits` says whether
the first batches give the same scores from a full, an empty and no store.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import defaultdict
from collections.abc import Sequence
from itertools import combinations, pairwise, takewhile
from pathlib import Path
from typing import Any

import torch

from rerank import Reranker
from rerank.backends.hf import Hf
from rerank.collections import open_collection
from rerank.lm.prefix_cache import DEFAULT_LIMIT, PrefixCache
from rerank.models import BackendOptions, open_model_backend
from rerank.prompts.base import Prompt
from rerank.retrieval import open_first_stage
from rerank.tasks import Reply, Request
from rerank.types import Run

METHODS = ("pairwise", "setwise", "pointwise", "qlm", "first", "sliding", "tourrank", "topdown")
#: Scores nearer than this may change places in float32.
NEAR = 1e-4
#: Batches that are answered again for `same_bits`.
REPEATED = 3


class BothSides:
    """A backend that answers every batch with and without reuse, and keeps count."""

    costs_money = False

    def __init__(self, model: Hf) -> None:
        options = BackendOptions(batch_size=model.batch_size, reuse=False)
        self._reuse = model
        self._plain = Hf(model.model, model.tokens.tokenizer, identity=model.identity, options=options)
        self.start()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reuse, name)

    def start(self) -> None:
        """Forget all counts and prefixes."""
        self.batches: list[tuple[list[Request], list[Reply], list[Reply]]] = []
        self.seconds = {"reuse": 0.0, "plain": 0.0}
        self.drop_prefixes()

    def drop_prefixes(self, limit: int = DEFAULT_LIMIT) -> None:
        """Start with an empty cache of prefixes of at most this number of bytes."""
        self._reuse.__dict__["_prefixes"] = PrefixCache(self._reuse.model, limit)

    def generate(self, requests: Sequence[Request]) -> list[Reply]:
        """Answer the requests in batches, the longest first."""
        order = sorted(range(len(requests)), key=lambda at: -sum(len(turn.content) for turn in requests[at].prompt))
        replies: dict[int, Reply] = {}
        size = self._reuse.batch_size
        for start in range(0, len(order), size):
            indices = order[start : start + size]
            batch = [requests[at] for at in indices]
            sides = [("reuse", self._reuse), ("plain", self._plain)]
            found: dict[str, list[Reply]] = {}
            for name, side in sides if len(self.batches) % 2 else reversed(sides):
                before = time.process_time()
                found[name] = side.generate(batch)
                self.seconds[name] += time.process_time() - before
            self.batches.append((batch, found["reuse"], found["plain"]))
            replies |= dict(zip(indices, found["reuse"], strict=True))
        return [replies[at] for at in range(len(requests))]

    def encode(self, prompts: list[Prompt]) -> list[list[int]]:
        """The token ids of prompts."""
        return self._reuse.tokens.encode(prompts)

    def same_bits(self) -> bool:
        """Answer the first batches again, from the cache as it is, from an empty one and from none."""
        first = self.batches[:REPEATED]
        same = True
        for limit in (None, DEFAULT_LIMIT, 0):
            if limit is not None:
                self.drop_prefixes(limit)
            for batch, replies, _ in first:
                again = self._reuse.generate(batch)
                same &= [(r.scores, r.text) for r in again] == [(r.scores, r.text) for r in replies]
        return same


def main() -> None:
    """Run all methods and print one line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lists", type=Path, required=True, help="candidate lists with passage text (requests format)")
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--methods", nargs="+", default=METHODS)
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--queries", type=int, default=2)
    parser.add_argument("--float32-queries", type=int, default=1, help="0 omits the comparison in float32")
    parser.add_argument("--depth", type=int, default=100)
    options = parser.parse_args()
    collection = open_collection(f"requests:{options.lists}")
    lists = list(open_first_stage("candidates", collection).search(collection.queries(), options.depth).values())
    figures = measure(options, lists[: options.queries], options.dtype)
    if options.float32_queries:
        exact = measure(options, lists[: options.float32_queries], "float32")
        for method, row in figures["methods"].items():
            row["float32"] = exact["methods"][method]
    print(json.dumps(figures))


def measure(options: argparse.Namespace, lists: Sequence[Any], dtype: Any) -> dict[str, Any]:
    """Run all methods with a model in one dtype."""
    model = open_model_backend(options.model, BackendOptions(dtype=dtype))
    assert isinstance(model, Hf)
    sides = BothSides(model)
    near = NEAR if model.model.dtype == torch.float32 else 0.0
    rows = {}
    for method in options.methods:
        sides.start()
        Reranker.from_backend(sides, method=method).transform(Run(lists))
        rows[method] = figures_of(sides, near)
        print(json.dumps({"dtype": str(model.model.dtype), method: rows[method]}), flush=True)
    return {
        "model": options.model,
        "dtype": str(model.model.dtype).removeprefix("torch."),
        "queries": len(lists),
        "batch_size": model.batch_size,
        "threads": torch.get_num_threads(),
        "methods": rows,
    }


def figures_of(sides: BothSides, near: float) -> dict[str, Any]:
    """The figures of one method."""
    replies = [reply for _, ours, _ in sides.batches for reply in ours]
    asked = sum(reply.tokens_in for reply in replies)
    computed = asked - sum(reply.tokens_cached for reply in replies)
    return {
        "calls": len(replies),
        "asked": asked,
        "computed": computed,
        "computed_share": computed / asked,
        "unique_share": unique_tokens(sides) / asked,
        "seconds": sides.seconds["reuse"],
        "seconds_plain": sides.seconds["plain"],
        "speedup": sides.seconds["plain"] / sides.seconds["reuse"],
        "calls_differ": differing_calls(sides, near),
        "pairs_differ": differing_pairs(sides, near),
        "same_bits": sides.same_bits(),
    }


def unique_tokens(sides: BothSides) -> int:
    """The tokens of all prompts if each common beginning, to the token, were computed once."""
    requests = [request for batch, _, _ in sides.batches for request in batch]
    prompts = sorted(sides.encode([request.prompt for request in requests]))
    common = [
        sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(before, prompt, strict=False)))
        for before, prompt in pairwise(prompts)
    ]
    return sum(map(len, prompts)) - sum(common)


def differing_calls(sides: BothSides, near: float) -> float | None:
    """The share of calls whose choice differs; None if a call has one document."""
    calls = [
        (one, other)
        for batch, ours, plain in sides.batches
        for one, other in zip(ours, plain, strict=True)
        if len(batch[0].window.docs) > 1
    ]
    if not calls:
        return None
    differing = sum(
        choice(one) != choice(other) and (bool(one.text) or not close(one, other, near)) for one, other in calls
    )
    return differing / len(calls)


def choice(reply: Reply) -> str | int:
    """The generated order, else the first choice by scores."""
    return reply.text or max(range(len(reply.scores)), key=reply.scores.__getitem__)


def close(one: Reply, other: Reply, near: float) -> bool:
    """Whether the two choices are nearly tied on both sides."""
    first, second = (max(range(len(reply.scores)), key=reply.scores.__getitem__) for reply in (one, other))
    return all(abs(reply.scores[first] - reply.scores[second]) < near for reply in (one, other))


def differing_pairs(sides: BothSides, near: float) -> float | None:
    """The share of pairs of documents whose scores are ordered differently; None if there are no scores."""
    lists: dict[Any, list[tuple[float, float]]] = defaultdict(list)
    for number, (batch, ours, plain) in enumerate(sides.batches):
        for at, (request, one, other) in enumerate(zip(batch, ours, plain, strict=True)):
            if len(request.window.docs) == 1:
                lists[request.window.query.id].append((score(one), score(other)))
            elif one.scores and not one.text:  # the scores of a generated order are those of its choices
                lists[number, at] = list(zip(one.scores, other.scores, strict=True))
    pairs = [pair for scores in lists.values() for pair in combinations(scores, 2)]
    if not pairs:
        return None
    swapped = sum((a - b) * (c - d) < 0 and max(abs(a - b), abs(c - d)) >= near for (a, c), (b, d) in pairs)
    return swapped / len(pairs)


def score(reply: Reply) -> float:
    """The score of a single document: yes minus no, or the only log-likelihood."""
    return reply.scores[0] - (reply.scores[1] if len(reply.scores) > 1 else 0.0)


if __name__ == "__main__":
    main()
