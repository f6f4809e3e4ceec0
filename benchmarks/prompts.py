"""Host work of one list of 100 documents: CPU time to render, fit and tokenize its prompts, without any model.

    python benchmarks/prompts.py [--collection requests:retrieve_results_dl19.json.gz] [--queries 12]

Three ways take turns on the same lists, each of which is new to them: `joined` tokenizes from memoized pieces (the
default), `whole` every text as a whole, and `once` is the bare tokenizer on the finished prompts, one call each.
`known` is `joined` on a list that it has seen, and `stored` is `joined` with a dictionary of the words of all lists, as
`rerank models tokenize` writes it. The work includes what a local model needs besides token ids: grammars,
continuations and spans of passages. Replies are drawn at random. Ratios are times of `joined`: large is good.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rerank.backends.hf import Hf
from rerank.collections import open_collection
from rerank.judges import Limits, open_judge
from rerank.lm.jobs import Job, tokenize_requests
from rerank.lm.joined_tokens import JoinedTokenizer, TokenDictionary, _open_ends
from rerank.lm.local_tasks import make_job_grammar, tokenize_continuations
from rerank.lm.tokenizers import HfTokens, locate_passage_tokens
from rerank.methods import open_method
from rerank.models import resolve_model_name
from rerank.pipeline.stream import rank_together
from rerank.prompts import load_prompt
from rerank.prompts.passages import passage_text
from rerank.retrieval import open_first_stage
from rerank.strategies import open_strategy
from rerank.tasks import AttentionTask, ContinuationTask, PermutationTask, Reply, Request

METHODS = ("fullrank", "sliding", "pairwise", "setwise", "pointwise", "qlm", "icr", "first-full")
#: Lists before the first timed one.
WARM = 2


class HostOnly:
    """A backend that does everything but running the model."""

    tasks = Hf.tasks
    costs_money = False
    batch_size = 4
    identity = {"model": "none"}  # noqa: RUF012

    def __init__(self, tokens: HfTokens) -> None:
        self.tokens = tokens
        self.prompts: list[Any] = []
        self.count = 0

    def generate(self, requests: Sequence[Request]) -> list[Reply]:
        _, groups = tokenize_requests(requests, self.tokens, "none")
        for job in (job for jobs in groups for job in jobs):
            self.count += len(job.prompt)
            self._prepare(job)
        self.prompts += [request.prompt for request in requests]
        return [reply_to(request) for request in requests]

    def _prepare(self, job: Job) -> None:
        if isinstance(job.task, PermutationTask):
            make_job_grammar(self.tokens, job)
        elif isinstance(job.task, ContinuationTask):
            tokenize_continuations(self.tokens, job)
        elif isinstance(job.task, AttentionTask):
            for prompt in filter(None, (job.request.prompt, job.task.null)):
                locate_passage_tokens(self.tokens, prompt, job.task.spans, job.task.tail)


def reply_to(request: Request) -> Reply:
    """Return a reply that depends only on the documents of a request."""
    draw = random.Random(" ".join(doc.id for doc in request.window.docs))
    task = request.task
    if isinstance(task, PermutationTask):
        return Reply(text=" > ".join(draw.sample(task.items, task.count)))
    count = len(task.continuations) if isinstance(task, ContinuationTask) else len(request.window)
    return Reply(scores=tuple(draw.random() for _ in range(count)))


def main() -> None:
    """Time all methods, print one line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--collection", default="pydoc", help="candidates of their own (requests:FILE), else BM25's")
    parser.add_argument("--queries", type=int, default=12)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--methods", nargs="*", default=METHODS)
    parser.add_argument("--max-passage-tokens", type=int, default=None)
    options = parser.parse_args()
    from transformers import AutoTokenizer

    collection = open_collection(options.collection)
    first_stage = "candidates" if options.collection.startswith("requests:") else "bm25"
    queries = collection.queries()[: options.queries + WARM]
    lists = list(open_first_stage(first_stage, collection).search(queries, 100).values())
    tokenizer = AutoTokenizer.from_pretrained(resolve_model_name(options.model))
    limits = Limits(max_passage_tokens=options.max_passage_tokens, min_passage_tokens=8)
    with tempfile.TemporaryDirectory() as folder:
        dictionary = make_dictionary(lists, tokenizer, Path(folder))
        rows = {name: timed(name, lists, tokenizer, limits, dictionary) for name in options.methods}
    for name, row in rows.items():
        print(name, json.dumps(row))
    print(json.dumps({"lists": len(lists) - WARM, "methods": rows}))


def make_dictionary(lists: Sequence[Any], tokenizer: Any, folder: Path) -> TokenDictionary:
    """Write and open a dictionary of the words of all lists, and print what it cost."""
    joined = HfTokens(tokenizer, context_size=16384).joined
    assert joined is not None
    texts = {passage_text(doc) for ranking in lists for doc in ranking.docs}
    spent = seconds(joined.write_dictionary, texts, folder)
    dictionary = TokenDictionary(folder)
    size = sum(path.stat().st_size for path in folder.iterdir())
    row = {"words": len(dictionary), "bytes": size, "passages_per_second": round(len(texts) / spent)}
    print("dictionary", json.dumps(row))
    return dictionary


def timed(
    method: str, lists: Sequence[Any], tokenizer: Any, limits: Limits, dictionary: TokenDictionary
) -> dict[str, float]:
    """Return the milliseconds per list of every way, and their ratios."""
    card = open_method(method)
    strategy, template = open_strategy(card.strategy), load_prompt(card.own_prompt or "listwise")
    sides = {}
    for name in ("joined", "whole", "stored"):
        tokens = HfTokens(tokenizer, context_size=16384, join=name != "whole")
        if name == "stored":
            joints = _open_ends(tokenizer)
            assert joints is not None
            tokens.joined = JoinedTokenizer(tokenizer, joints, [dictionary])
        sides[name] = open_judge(card.judge, HostOnly(tokens), template, limits)
    spent: dict[str, list[float]] = {"joined": [], "stored": [], "whole": [], "known": [], "once": []}
    backend: Any = sides["joined"].backend
    for ranking in lists:
        backend.prompts.clear()
        spent["joined"].append(seconds(rank_together, [ranking], strategy, sides["joined"], sides["joined"].backend))
        texts = list(map(backend.tokens.chat.render, backend.prompts))
        spent["known"].append(seconds(rank_together, [ranking], strategy, sides["joined"], sides["joined"].backend))
        spent["stored"].append(seconds(rank_together, [ranking], strategy, sides["stored"], sides["stored"].backend))
        spent["whole"].append(seconds(rank_together, [ranking], strategy, sides["whole"], sides["whole"].backend))
        spent["once"].append(seconds(tokenize_each, tokenizer, texts))
    means = {name: 1000 * sum(times[WARM:]) / len(times[WARM:]) for name, times in spent.items()}
    documents = sum(len(ranking.docs) for ranking in lists[WARM:]) / len(lists[WARM:])
    return {
        "requests": len(texts),
        **{f"{name}_ms": round(mean, 2) for name, mean in means.items()},
        "whole_ratio": round(means["whole"] / means["joined"], 2),
        "once_ratio": round(means["once"] / means["joined"], 2),
        "known_ratio": round(means["joined"] / means["known"], 2),
        "stored_ratio": round(means["joined"] / means["stored"], 2),
        "passages_per_second": round(1000 * documents / means["joined"]),
        "passages_per_second_stored": round(1000 * documents / means["stored"]),
    }


def tokenize_each(tokenizer: Any, texts: Sequence[str]) -> None:
    """Call the bare tokenizer once per text."""
    for text in texts:
        tokenizer(text, add_special_tokens=False)


def seconds(action: Callable[..., Any], *arguments: Any) -> float:
    """CPU seconds of this process."""
    started = time.process_time()
    action(*arguments)
    return time.process_time() - started


if __name__ == "__main__":
    main()
