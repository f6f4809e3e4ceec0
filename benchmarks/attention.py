"""The attention judge against a plain prefill, a plain forward pass, and full eager attention: time, memory, error.

    python benchmarks/attention.py [--model smollm2-135m] [--repeat 3]

Passages are those of the embedded collection. Ratios are ours / plain, so small is good, but for `speedup_over_eager`,
eager / ours, where large is good. "Plain prefill" is one forward pass of transformers' own over the same prompt, keys
and values kept, logits of the last token only; `seconds_over_own_prefill` compares with the same pass on our kernel.
Memory is the rise of the process's peak while the pass runs, each in a process of its own.
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
from typing import Any

import torch

from rerank.collections import open_collection
from rerank.judges import Limits, open_judge
from rerank.lm.icr_scoring import sum_calibrated_attention_tensors
from rerank.lm.loading import quiet_transformers
from rerank.lm.passage_spans import locate_passage_tokens
from rerank.lm.temporary_settings import TemporarySettings
from rerank.models import BackendOptions, open_model_backend
from rerank.prompts import load_prompt
from rerank.retrieval import open_first_stage
from rerank.tasks import AttentionTask, Request
from rerank.types import Document, Window


def main() -> None:
    """Measure everything, print one line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--child", choices=("attend", "forward"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    backend = open_model_backend(options.model, BackendOptions(dtype="auto"))
    long = request(backend, documents=100, tokens=62)
    if options.child:
        action = run if options.child == "attend" else forward
        action(backend, request(backend, documents=2, tokens=20))  # modules and tokenizers are loaded before
        print(peak(lambda: action(backend, long)))
        return
    half = replace(long, task=replace(long.task, layers=(0, backend._model.config.num_hidden_layers // 2 - 1)))
    ours, plain, early, own = interleaved(
        options.repeat,
        lambda: run(backend, long),
        lambda: forward(backend, long),
        lambda: run(backend, half),
        lambda: forward(backend, long, fast=True),
    )
    print(f"attention {ours:.2f} s, prefill {plain:.2f} s, early exit {early:.2f} s", file=sys.stderr)
    memory = {name: child(options.model, name) for name in ("attend", "forward")}
    words = request(backend, documents=20, words=90)
    quick, eager = interleaved(options.repeat, lambda: run(backend, words), lambda: reference(backend, words))
    exact = open_model_backend(options.model, BackendOptions(dtype="float32"))
    error, same = compare(exact, request(exact, documents=12, tokens=30))
    print(
        json.dumps(
            {
                "tokens": backend.tokens.count(long.prompt),
                "seconds_over_prefill": ours / plain,
                "early_exit_over_prefill": early / plain,
                "memory_over_forward": memory["attend"] / memory["forward"],
                "max_relative_error": error,
                "speedup_over_eager": eager / quick,
                "seconds_over_own_prefill": ours / own,
                "same_tokens_kept": same,
                "seconds": {"attention": ours, "prefill": plain, "early": early, "20_passages": quick, "eager": eager},
                "peak_mib": {name: rise / 1024 for name, rise in memory.items()},
                "dtype": str(backend._model.dtype).removeprefix("torch."),
                "threads": torch.get_num_threads(),
            }
        )
    )


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
    (reply,) = backend.generate([asked])
    if reply.error:
        raise SystemExit(reply.error)
    return reply.scores


def forward(backend: Any, asked: Request, *, fast: bool = False) -> None:
    """One plain forward pass over the prompt."""
    (ids,) = backend.tokens.encode([asked.prompt])
    with torch.inference_mode(), TemporarySettings(backend._model, attention="" if fast else "sdpa"):
        backend._model(torch.tensor([ids]), use_cache=True, logits_to_keep=1)


def weights(backend: Any, prompt: Any, task: AttentionTask) -> tuple[torch.Tensor, Any]:
    """Attention by token, from all weights of all layers."""
    found = locate_passage_tokens(backend.tokens, prompt, task.spans, task.tail)
    with torch.inference_mode(), TemporarySettings(backend._model, attention="eager"):
        out = backend._model(torch.tensor([found.ids]), output_attentions=True, use_cache=False, logits_to_keep=1)
    total = torch.zeros(len(found.ids))
    for layer in out.attentions:
        total += layer[0, :, found.tail :].float().mean(dim=1).sum(dim=0)
    return total[: found.tail], found


def reference(backend: Any, asked: Request) -> list[torch.Tensor]:
    """The authors' two passes; calibrated attention of each passage's tokens."""
    task = asked.task
    assert isinstance(task, AttentionTask)
    with quiet_transformers():
        (real, found), (null, _) = weights(backend, asked.prompt, task), weights(backend, task.null, task)
    return [(real - null)[span] for span in found.spans]


def compare(backend: Any, asked: Request) -> tuple[float, bool]:
    """Largest error over the largest score, and whether the same tokens are kept (else the sums would differ more)."""
    expected = reference(backend, asked)
    filtered = [float(c[c > c.mean() - 2 * c.std()].sum()) for c in expected]
    scores = run(backend, asked)
    largest = max(map(abs, filtered))
    error = max(abs(a - b) for a, b in zip(scores, filtered, strict=True)) / largest
    kept = [sum_calibrated_attention_tensors(c, torch.zeros_like(c)) for c in expected]
    return error, all(abs(a - b) < 1e-3 * largest for a, b in zip(scores, kept, strict=True))


def interleaved(repeat: int, *actions: Callable[[], Any]) -> list[float]:
    """Median seconds of each, taken in turns, so that what else the machine does hits all alike."""
    taken: list[list[float]] = [[] for _ in actions]
    for turn in range(repeat + 1):
        for seconds, action in zip(taken, actions, strict=True):
            started = time.perf_counter()
            action()
            if turn:  # the first turn warms up
                seconds.append(time.perf_counter() - started)
    return [statistics.median(seconds) for seconds in taken]


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
