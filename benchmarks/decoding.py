"""Constrained, skipping decoding of a whole order against `generate` of transformers under the same mask.

    python benchmarks/decoding.py [--documents 100] [--tokens 60] [--model smollm2-135m] [--repeat 2]

Passages are those of the embedded collection, cut to `--tokens`. `steps` are forward passes after the prompt's own;
`steps_plain` those of a decoder that asks for every token. `speedup` is plain / ours, end to end with the prefill, in
the dtype that the machine is fast with: large is good. `plain` is `generate` with its default cache, which is
concatenated at every step; `static` is `generate` with a static cache, which is what to beat. Both are given in
wall-clock and in CPU seconds of all threads, measured in turns. `same_order` compares both in float32, where it must
hold; `same_order_low` in the fast dtype; `gap` is how far the two logits lie apart where both part for the first time,
as plain transformers computes them there, `gap_relative` the same over the larger one (bfloat16 keeps 2 to 3 digits).
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from transformers import GenerationConfig

from rerank.collections import open_collection
from rerank.judges import Limits, open_judge
from rerank.lm.forward_pass import temporary_settings
from rerank.lm.loading import quiet_transformers
from rerank.lm.local_tasks import identifier_tokens
from rerank.lm.permutation_grammar import PermutationGrammar
from rerank.models import BackendOptions, open_model_backend
from rerank.prompts import load_prompt
from rerank.retrieval import open_first_stage
from rerank.tasks import PermutationTask, Request
from rerank.types import Window


def main() -> None:
    """Measure everything, print one line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--documents", type=int, default=100)
    parser.add_argument("--tokens", type=int, default=60)
    parser.add_argument("--repeat", type=int, default=2)
    parser.add_argument("--skip-float32", action="store_true", help="leave out the slow comparison in float32")
    options = parser.parse_args()
    backend: Any = open_model_backend(options.model, BackendOptions(dtype="auto"))
    asked = request(backend, options.documents, options.tokens)
    few = replace(asked, task=replace(asked.task, count=min(10, options.documents)))
    actions: dict[str, Any] = {
        "ours": lambda: backend.generate([asked])[0],
        "plain": lambda: masked_generate(backend, asked),
        "static": lambda: masked_generate(backend, asked, cache="static"),
    }
    taken, results = in_turns(options.repeat, actions)
    reply, slow = results["ours"], results["plain"]
    (top,) = backend.generate([few])
    chain, steps_plain = grammar(backend, asked), len(slow) - 1
    result = {
        "documents": options.documents,
        "steps": reply.steps,
        "steps_plain": steps_plain,
        "steps_top10": top.steps,
        **taken,
        "static_writes_the_same": results["static"] == slow,
        "same_order": None,
        "tokens": backend.tokens.count(asked.prompt),
        "dtype": str(backend.model.dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "same_order_low": named(chain, slow) == order_of(asked, reply.text),
    }
    result["gap"], result["gap_relative"] = gap(backend, asked, slow, order_of(asked, reply.text))
    if not options.skip_float32:
        exact = open_model_backend(options.model, BackendOptions(dtype="float32"))
        (precise,) = exact.generate([asked])
        result["same_order"] = named(chain, masked_generate(exact, asked)) == order_of(asked, precise.text)
    print(json.dumps(result))


def request(backend: Any, documents: int, tokens: int) -> Request:
    """One question of the embedded collection with so many passages, as the generating judge asks it."""
    collection = open_collection("pydoc")
    query = collection.queries()[0]
    ranking = open_first_stage("bm25", collection).search([query], 400)[query.id]
    docs = [doc for doc in ranking.docs if len(doc.text.split()) >= 40][:documents]
    judge = open_judge("generate", backend, load_prompt("listwise"), Limits(max_passage_tokens=tokens))
    (made,) = judge.make_requests(Window(query, tuple(docs)))
    return made


def grammar(backend: Any, asked: Request) -> PermutationGrammar:
    """The grammar of the reply."""
    assert isinstance(asked.task, PermutationTask)
    end = backend.tokens.render(asked.prompt)[-32:]
    return PermutationGrammar(
        *identifier_tokens(backend.tokens, asked.task.items, asked.task.separator, end, ""), asked.task.count
    )


def masked_generate(backend: Any, asked: Request, *, cache: str = "dynamic") -> list[int]:
    """What `generate` writes under the mask, one token a step, on transformers' own attention and cache."""
    (ids,) = backend.tokens.encode([asked.prompt])
    chain = grammar(backend, asked)
    end = backend.model.generation_config.eos_token_id
    state, read = chain.start(), len(ids)

    def allowed(_: int, sequence: torch.Tensor) -> Sequence[int]:
        nonlocal read
        for token in sequence[read:].tolist():
            state.push(token)
        read = len(sequence)
        return state.allowed() or [end]

    config = GenerationConfig(  # type: ignore[no-untyped-call]
        max_new_tokens=chain.max_tokens + 1,
        do_sample=False,
        eos_token_id=end,
        pad_token_id=end,
        cache_implementation=cache,
    )
    with quiet_transformers(), torch.inference_mode(), temporary_settings(backend.model, config, "sdpa"):
        out = backend.model.generate(torch.tensor([ids]), generation_config=config, prefix_allowed_tokens_fn=allowed)
    return [token for token in out[0, len(ids) :].tolist() if token != end]


def named(chain: PermutationGrammar, tokens: Sequence[int]) -> list[int]:
    """The order that tokens spell."""
    state = chain.start()
    for token in tokens:
        state.push(token)
    return state.order


def order_of(asked: Request, text: str) -> list[int]:
    """The order that a reply names."""
    assert isinstance(asked.task, PermutationTask)
    return [asked.task.items.index(name) for name in text.split(asked.task.separator)]


def gap(backend: Any, asked: Request, slow: Sequence[int], order: Sequence[int]) -> tuple[float, float]:
    """How far the logits of the two tokens lie apart where both orders part; absolute and relative; 0 if never."""
    spelled = spell(grammar(backend, asked), order)
    parting = next((at for at, (a, b) in enumerate(zip(spelled, slow, strict=False)) if a != b), None)
    if parting is None:
        return 0.0, 0.0
    (ids,) = backend.tokens.encode([asked.prompt])
    with torch.inference_mode(), temporary_settings(backend.model, attention="sdpa"):
        logits = backend.model(torch.tensor([[*ids, *slow[:parting]]]), logits_to_keep=1).logits[0, -1].float()
    one, other = float(logits[spelled[parting]]), float(logits[slow[parting]])
    return abs(one - other), abs(one - other) / max(abs(one), abs(other))


def spell(chain: PermutationGrammar, order: Sequence[int]) -> list[int]:
    """The tokens of an order: at every choice the way that leads to the next identifier."""
    state, tokens = chain.start(), []
    for item in order:
        node = state._node
        while node.children:
            (token,) = (t for t, child in node.children.items() if item in child.items)
            node = node.children[token]
            state.push(token)
            tokens.append(token)
    return tokens


def in_turns(
    repeat: int, actions: Mapping[str, Callable[[], Any]]
) -> tuple[dict[str, dict[str, float]], dict[str, Any]]:
    """Median seconds by the clock and of CPU, with the ratios to ours, and the last result of each action."""
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in actions}
    results = {}
    for _ in range(repeat):
        for name, action in actions.items():
            wall, cpu = time.perf_counter(), time.process_time()
            results[name] = action()
            taken[name].append((time.perf_counter() - wall, time.process_time() - cpu))
    report = {}
    for index, kind in enumerate(("seconds", "cpu_seconds")):
        medians = {name: statistics.median(pair[index] for pair in pairs) for name, pairs in taken.items()}
        report[kind] = {name: round(value, 2) for name, value in medians.items()}
        ratios = {name: round(value / medians["ours"], 3) for name, value in medians.items() if name != "ours"}
        report["speedup" if kind == "seconds" else "cpu_speedup"] = ratios
    return report, results


if __name__ == "__main__":
    main()
