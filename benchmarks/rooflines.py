"""Computes which methods fit which GPUs, and the passages per second that arithmetic and memory bandwidth allow.

    python benchmarks/rooflines.py

Nothing is measured. Memory is that of `MemoryPlan`; seconds are those of the roofline model, with the peaks of
`rerank.finetune.trainer.cost_estimate`.

- A prefill of n tokens has 2 n operations per parameter of the layers, and 2 n^2 h per layer for causal attention,
  where h is the number of heads times their size (Kaplan et al. 2020, arXiv 2001.08361, table 1, half of the scores).
- A decoding step moves all weights once per batch, and the cache of every list; it launches kernels one after the
  other, each taking at least `LAUNCH` seconds.

Lists have 100 passages of about 90 tokens; tokens and steps per list are those of ``docs/scaling.md``. The last line is
JSON, the lines before it are the tables of ``docs/gpu.md``.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import transformers

from rerank.finetune.trainer.cost_estimate import CARDS, Card
from rerank.lm.memory import MOST_ROWS, MemoryPlan, plan_memory
from rerank.lm.model_files import ModelFiles

GIB = 1 << 30
#: Seconds per kernel that is launched alone, an assumption: CUDA graphs need less, a busy host more.
LAUNCH = 5e-6
#: Kernels of a decoding step per layer: 1,409 with 32 layers (`benchmarks/kernels.py`, ``fullrank_step``).
KERNELS_PER_LAYER = 44


@dataclass(frozen=True, slots=True)
class Work:
    """What a method asks of the model for one list."""

    method: str
    prompts: int  # number of prompts
    tokens: int  # tokens per prompt
    steps: int = 0  # decoding steps per prompt
    most: int = MOST_ROWS  # maximum number of prompts per batch


WORKS = (
    Work("fullrank", prompts=1, tokens=9400, steps=100),
    Work("sliding", prompts=9, tokens=1970, steps=20),
    Work("icr", prompts=1, tokens=9400, most=1),  # the null query reads the same prefix
    Work("qlm", prompts=100, tokens=130),
)


def llama(layers: int, width: int, inner: int, vocabulary: int = 128_256) -> Any:
    return transformers.LlamaConfig(
        architectures=["LlamaForCausalLM"],
        num_hidden_layers=layers,
        hidden_size=width,
        intermediate_size=inner,
        num_attention_heads=width // 128,
        num_key_value_heads=8,
        head_dim=128,
        vocab_size=vocabulary,
        max_position_embeddings=131_072,
        tie_word_embeddings=width < 4096,
    )


#: Shapes of published models: Llama 3.2 3B, Llama 3.1 8B and 70B (their config.json).
MODELS = {"3B": llama(28, 3072, 8192), "8B": llama(32, 4096, 14_336), "70B": llama(80, 8192, 28_672)}


def plan_of(config: Any) -> MemoryPlan:
    """Plan a model in bfloat16 from its configuration alone."""
    with tempfile.TemporaryDirectory() as folder:
        config.save_pretrained(folder)
        return plan_memory(ModelFiles(folder=Path(folder)), "bfloat16")


def cell(config: Any, plan: MemoryPlan, card: Card, work: Work) -> dict[str, Any]:
    """Return whether a list fits, how many prompts form a batch, and passages per second."""
    free = card.memory * GIB - plan.weights
    tokens = work.tokens + work.steps
    if plan.longest_list(free) < tokens:
        return {"fits": False}
    rows = max(1, min(work.most, plan.batch_tokens(free) // tokens))
    layers = plan.parameters - (1 if config.tie_word_embeddings else 2) * config.vocab_size * config.hidden_size
    heads = config.num_attention_heads * config.head_dim
    operations = 2 * layers * work.tokens + 2 * heads * config.num_hidden_layers * work.tokens**2
    prefill = max(operations / card.peak, plan.weights / rows / card.bandwidth)
    moved = (plan.weights / rows + plan.cache * tokens) / card.bandwidth
    launches = KERNELS_PER_LAYER * config.num_hidden_layers * LAUNCH / rows
    step = max(moved, 2 * layers / card.peak, launches)
    seconds = work.prompts * (prefill + work.steps * step)
    return {"fits": True, "batch": rows, "passages_per_second": 100 / seconds}


def main() -> None:
    argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0]).parse_args()
    rows = []
    for name, config in MODELS.items():
        plan = plan_of(config)
        print(f"\n{name}: weights {plan.weights / GIB:.1f} GiB, cache {plan.cache / 1024:.0f} KiB per token\n")
        print("| method | " + " | ".join(card.name for card in CARDS) + " |\n| --- |" + " ---: |" * len(CARDS))
        for work in WORKS:
            found = [cell(config, plan, card, work) for card in CARDS]
            texts = [f"{c['passages_per_second']:,.0f} ({c['batch']})" if c["fits"] else "does not fit" for c in found]
            print(f"| `{work.method}` | " + " | ".join(texts) + " |")
            rows += [
                {"model": name, "method": work.method, "card": card.name, **c}
                for card, c in zip(CARDS, found, strict=True)
            ]
    print(json.dumps({"benchmark": "rooflines", "launch": LAUNCH, "rows": rows}))


if __name__ == "__main__":
    main()
