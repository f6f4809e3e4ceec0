"""Dropout and attention of a training step on a CPU against torch's own.

    python benchmarks/training_layers.py [--turns 40]

The sizes are those of SmolLM2-135M, in bfloat16 as in its trainings; attention is measured on 8 passages of about 110
tokens, and on a list of 2,000 tokens. Forward and backward pass, CPU milliseconds, medians over turns in which both
variants alternate. Ratios: theirs / ours, large when we are good.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import accumulate
from types import SimpleNamespace

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from rerank.finetune.trainer.base_model import CpuDropout
from rerank.finetune.trainer.packed_attention import PackedTrainingRow, compute_packed

PASSAGES, LIST = (100, 120, 90, 125, 110, 118, 95, 122), (2000,)
HEADS, GROUPS, HEAD_SIZE, WIDTH = 9, 3, 64, 576


def main() -> None:
    """Measure both, print one line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, default=40)
    turns = parser.parse_args().turns
    torch.manual_seed(0)
    hidden = make_states(sum(PASSAGES), WIDTH)
    rows = {"dropout": measured(turns, {"torch": nn.Dropout(0.05), "ours": CpuDropout(0.05)}, [hidden])}
    for name, lengths in (("passages", PASSAGES), ("list", LIST)):
        states = [make_states(1, heads, sum(lengths), HEAD_SIZE) for heads in (HEADS, GROUPS, GROUPS)]
        variants = {"torch": partial(attention_of_torch, lengths), "ours": partial(packed_attention, lengths)}
        rows[f"attention_of_{name}"] = measured(turns, variants, states)
    print(json.dumps({name: {**row, "ratio": round(row["torch"] / row["ours"], 2)} for name, row in rows.items()}))


def make_states(*shape: int) -> Tensor:
    """Return random activations."""
    return torch.randn(shape, dtype=torch.bfloat16).requires_grad_()


def measured(turns: int, variants: Mapping[str, Callable[..., Tensor]], inputs: list[Tensor]) -> dict[str, float]:
    """Return the median CPU milliseconds of a forward and backward pass of each variant."""
    times: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(turns + 3):
        for name, function in variants.items():
            began = time.process_time()
            out = function(*inputs)
            torch.autograd.grad(out.sum(), inputs)
            times[name].append(1000 * (time.process_time() - began))
    return {name: round(statistics.median(values[3:]), 2) for name, values in times.items()}


def bounds(lengths: Sequence[int]) -> list[tuple[int, int]]:
    """Return start and end of each text in the packed row."""
    ends = list(accumulate(lengths))
    return list(zip([0, *ends], ends, strict=False))


def packed_attention(lengths: Sequence[int], query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Return the attention of the trainer."""
    row = PackedTrainingRow(texts=bounds(lengths))
    return compute_packed(SimpleNamespace(layer_idx=0), query, key, value, None, packing=row)[0]


def attention_of_torch(lengths: Sequence[int], query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Return the same from one call of torch's kernel per text."""
    out = []
    for start, end in bounds(lengths):
        keys, values = (x[:, :, start:end].repeat_interleave(HEADS // GROUPS, dim=1) for x in (key, value))
        out.append(scaled_dot_product_attention(query[:, :, start:end], keys, values, is_causal=True))
    return torch.cat(out, dim=2).transpose(1, 2)


if __name__ == "__main__":
    main()
