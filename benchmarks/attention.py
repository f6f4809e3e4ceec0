"""The attention judge against a plain prefill, a plain forward pass, and full eager attention: time, memory, error.

    python benchmarks/attention.py [--model smollm2-135m] [--repeat 3] [--only passes]

Passages are those of the embedded collection. Ratios are ours / plain, so small is good, but for `speedup_over_eager`
and `speedup_over_authors`, theirs / ours, where large is good. "Eager" is two passes over the whole prompt, for the
query and for the null query, with all attention weights; "authors" is what the authors' code computes: one such pass,
and one over the null query alone (some 32 tokens) on top of the passages' keys and values. "Plain prefill" is one
forward pass of transformers' own over the same prompt, keys and values kept, logits of the last token only;
`seconds_over_own_prefill` compares with the same pass on our kernel. Ratios are of wall-clock times; those under `cpu`
are of CPU seconds of all threads. Memory is the rise of the process's peak while the pass runs, each in a process of
its own. `--only passes` measures the passes over --passages alone.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from rerank.collections import open_collection
from rerank.judges import Limits, open_judge
from rerank.lm.forward_pass import temporary_settings
from rerank.lm.icr_scoring import sum_calibrated
from rerank.lm.loading import quiet_transformers
from rerank.lm.tokenizers import locate_passage_tokens
from rerank.models import BackendOptions, open_model_backend
from rerank.prompts import load_prompt
from rerank.retrieval import open_first_stage
from rerank.tasks import AttentionTask, Reply, Request
from rerank.types import Document, Window


def main() -> None:
    """Measure everything, print one line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--only", choices=("passes",), help="measure the passes over whole prompts alone")
    parser.add_argument("--passages", type=int, default=20, help="passages of these prompts")
    parser.add_argument("--child", choices=("attend", "forward"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    backend: Any = open_model_backend(options.model, BackendOptions(dtype="auto"))
    long = request(backend, documents=100, tokens=62)
    if options.child:
        action = run if options.child == "attend" else forward
        action(backend, request(backend, documents=2, tokens=20))  # modules and tokenizers are loaded before
        print(peak(lambda: action(backend, long)))
        return
    if options.only:
        print(json.dumps(compare_passes(backend, options.repeat, options.passages)))
        return
    assert isinstance(long.task, AttentionTask)
    half = replace(long, task=replace(long.task, layers=(0, backend.model.config.num_hidden_layers // 2 - 1)))
    ours, plain, early, own = interleaved(
        options.repeat,
        lambda: run(backend, long),
        lambda: forward(backend, long),
        lambda: run(backend, half),
        lambda: forward(backend, long, fast=True),
    )
    print(f"attention {ours.wall:.2f} s, prefill {plain.wall:.2f} s, early exit {early.wall:.2f} s", file=sys.stderr)
    memory = {name: child(options.model, name) for name in ("attend", "forward")}
    exact = open_model_backend(options.model, BackendOptions(dtype="float32"))
    error, same = compare(exact, request(exact, documents=12, tokens=30))
    print(
        json.dumps(
            {
                "tokens": backend.tokens.count(long.prompt),
                **ratios_to_prefills("wall", ours, plain, early, own),
                "cpu": ratios_to_prefills("cpu", ours, plain, early, own),
                "memory_over_forward": memory["attend"] / memory["forward"],
                "max_relative_error": error,
                "same_tokens_kept": same,
                "seconds": {"attention": ours.wall, "prefill": plain.wall, "early": early.wall},
                "peak_mib": {name: rise / 1024 for name, rise in memory.items()},
                "passes": compare_passes(backend, options.repeat, options.passages),
                "dtype": str(backend.model.dtype).removeprefix("torch."),
                "threads": torch.get_num_threads(),
            }
        )
    )


def ratios_to_prefills(kind: str, ours: Seconds, plain: Seconds, early: Seconds, own: Seconds) -> dict[str, float]:
    """How long the judge takes, over a plain prefill and over one with our kernel."""
    mine, theirs, half, kernel = (getattr(seconds, kind) for seconds in (ours, plain, early, own))
    return {
        "seconds_over_prefill": mine / theirs,
        "early_exit_over_prefill": half / theirs,
        "seconds_over_own_prefill": mine / kernel,
    }


def compare_passes(backend: Any, repeat: int, passages: int) -> dict[str, Any]:
    """The judge on some passages against full attention weights, computed in two whole passes and as the authors do."""
    words = request(backend, documents=passages, words=90)
    whole, shared = (torch.cat(reference(backend, words, shared=kind)) for kind in (False, True))
    ours, eager, authors = interleaved(
        repeat,
        lambda: run(backend, words),
        lambda: reference(backend, words),
        lambda: reference(backend, words, shared=True),
    )
    return {
        "tokens": backend.tokens.count(words.prompt),
        "eager_and_authors_differ_by": float((whole - shared).abs().max() / whole.abs().max()),
        "speedup_over_eager": eager.wall / ours.wall,
        "speedup_over_authors": authors.wall / ours.wall,
        "cpu": {"speedup_over_eager": eager.cpu / ours.cpu, "speedup_over_authors": authors.cpu / ours.cpu},
        "seconds": {"ours": ours.wall, "eager": eager.wall, "authors": authors.wall},
        "cpu_seconds": {"ours": ours.cpu, "eager": eager.cpu, "authors": authors.cpu},
        "threads": torch.get_num_threads(),
    }


def request(backend: Any, *, documents: int, tokens: int | None = None, words: int = 0) -> Request:
    """One question of the embedded collection, as the attention judge asks it."""
    collection = open_collection("pydoc")
    query = collection.queries()[0]
    ranking = open_first_stage("bm25", collection).search([query], 400)[query.id]
    docs = [doc for doc in ranking.docs if len(doc.text.split()) >= max(words, 50)][:documents]
    if words:
        docs = [Document(id=doc.id, text=" ".join(doc.text.split()[:words])) for doc in docs]
    limits = Limits(min_passage_tokens=8, max_passage_tokens=tokens)
    judge = open_judge("attention", backend, load_prompt("icr_qa"), limits)
    (made,) = judge.make_requests(Window(query, tuple(docs)))
    return made


def run(backend: Any, asked: Request) -> Sequence[float]:
    """Ours."""
    reply: Reply
    (reply,) = backend.generate([asked])
    if reply.error:
        raise SystemExit(reply.error)
    return reply.scores


def forward(backend: Any, asked: Request, *, fast: bool = False) -> None:
    """One plain forward pass over the prompt."""
    (ids,) = backend.tokens.encode([asked.prompt])
    with torch.inference_mode(), temporary_settings(backend.model, attention="" if fast else "sdpa"):
        backend.model(torch.tensor([ids]), use_cache=True, logits_to_keep=1)


def weights(backend: Any, prompt: Any, task: AttentionTask, cache: Any = None) -> tuple[torch.Tensor, Any, Any]:
    """Attention by token, from all weights of all layers; its positions; and the keys and values of the passages.

    With the cache of another prompt with the same passages, only the tokens after them are processed.
    """
    found = locate_passage_tokens(backend.tokens, prompt, task.spans, task.tail)
    start = found.tail if cache is not None else 0
    with torch.inference_mode(), temporary_settings(backend.model, attention="eager"):
        out = backend.model(
            torch.tensor([found.ids[start:]]),
            output_attentions=True,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
    total = torch.zeros(len(found.ids))
    for layer in out.attentions:
        total += layer[0, :, found.tail - start :].float().mean(dim=1).sum(dim=0)
    out.past_key_values.crop(found.tail - len(found.ids))  # the passages remain
    return total[: found.tail], found, out.past_key_values


def reference(backend: Any, asked: Request, *, shared: bool = False) -> list[torch.Tensor]:
    """Calibrated attention of each passage's tokens; the null query reads the passages' keys and values if shared."""
    task = asked.task
    assert isinstance(task, AttentionTask)
    with quiet_transformers():
        real, found, cache = weights(backend, asked.prompt, task)
        null, _, _ = weights(backend, task.null, task, cache if shared else None)
        return [(real - null)[span] for span in found.spans]


def compare(backend: Any, asked: Request) -> tuple[float, bool]:
    """Largest error over the largest score, and whether the same tokens are kept (else the sums would differ more)."""
    expected = reference(backend, asked)
    filtered = [float(c[c > c.mean() - 2 * c.std()].sum()) for c in expected]
    scores = run(backend, asked)
    largest = max(map(abs, filtered))
    error = max(abs(a - b) for a, b in zip(scores, filtered, strict=True)) / largest
    kept = [sum_calibrated(c, torch.zeros_like(c)) for c in expected]
    return error, all(abs(a - b) < 1e-3 * largest for a, b in zip(scores, kept, strict=True))


class Seconds(NamedTuple):
    """Median seconds by the clock, and of CPU of all threads."""

    wall: float
    cpu: float


def interleaved(repeat: int, *actions: Callable[[], Any]) -> list[Seconds]:
    """Median seconds of each, taken in turns, so that what else the machine does hits all alike."""
    taken: list[list[tuple[float, float]]] = [[] for _ in actions]
    for turn in range(repeat + 1):
        for pairs, action in zip(taken, actions, strict=True):
            wall, cpu = time.perf_counter(), time.process_time()
            action()
            if turn:  # the first turn warms up
                pairs.append((time.perf_counter() - wall, time.process_time() - cpu))
    return [Seconds(*map(statistics.median, zip(*pairs, strict=True))) for pairs in taken]


def peak(action: Callable[[], Any]) -> int:
    """KiB by which the process's peak memory rises; Linux only, since `getrusage` counts the parent's peak, too."""
    torch.zeros(1 << 20).sum()  # what torch needs for itself is there before
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = _memory("VmRSS")
    action()
    return _memory("VmHWM") - before


def _memory(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith(key)))


def child(model: str, name: str) -> int:
    """`peak` in a fresh process, which gives freed memory back at once: what glibc keeps for later is no need."""
    command = [sys.executable, __file__, "--model", model, "--child", name]
    settings = {**os.environ, "MALLOC_MMAP_THRESHOLD_": str(1 << 20)}
    return int(subprocess.run(command, capture_output=True, text=True, check=True, env=settings).stdout.split()[-1])


if __name__ == "__main__":
    main()
