"""Packing a model's matrices to four bits, and factors that make up for what that loses. Knows bitsandbytes' layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

import torch

from rerank.finetune.adapters.base import peft_files


def pack(model: Any, names: Sequence[str]) -> None:
    """Replace linear layers by bitsandbytes' of four bits (NF4, steps quantised once more), in place.

    Args:
        model: A model of transformers, on the device where it is to train.
        names: Full names of the layers.
    """
    bitsandbytes = _bitsandbytes()
    for name in names:
        linear = model.get_submodule(name)
        weight = linear.weight
        packed = bitsandbytes.nn.Linear4bit(
            linear.in_features,
            linear.out_features,
            bias=linear.bias is not None,
            compute_dtype=weight.dtype,
            compress_statistics=True,
            quant_type="nf4",
        )
        packed.weight = bitsandbytes.nn.Params4bit(
            weight.data, requires_grad=False, compress_statistics=True, quant_type="nf4"
        )
        packed.bias = linear.bias
        # Moving is what packs.
        model.set_submodule(name, packed.to(weight.device).requires_grad_(False))
    model.is_loaded_in_4bit = True  # which peft asks


def unpacked(layer: Any) -> torch.Tensor:
    """(rows, columns) the weight that a packed layer computes with, in float32."""
    found: torch.Tensor = _bitsandbytes().functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state)
    return found.float()


def make_up(model: Any, before: Mapping[str, torch.Tensor]) -> None:
    """Let the factors begin with the best product of their rank for W - Q, W a weight before packing and Q after.

    One step of LoftQ (Li et al., ICLR 2024, arXiv 2310.08659, algorithm 1 with T = 1) for a Q that is given.

    Args:
        model: A `peft.PeftModel` with LoRA on packed layers.
        before: Module name -> (rows, columns) W.
    """
    for name, layer in peft_files.lora_layers(model):
        a, b = layer.lora_A[peft_files.ADAPTER].weight, layer.lora_B[peft_files.ADAPTER].weight
        lost = before[name].to(a.device).float() - unpacked(layer.get_base_layer())
        u, s, v = torch.linalg.svd(lost, full_matrices=False)
        root = (s[: len(a)] / layer.scaling[peft_files.ADAPTER]).sqrt()
        b.data = (u[:, : len(a)] * root).to(b.dtype).contiguous()
        a.data = (root[:, None] * v[: len(a)]).to(a.dtype).contiguous()


def _bitsandbytes() -> Any:
    # By its name, since it has no types and is not installed where types are checked.
    return import_module("bitsandbytes")
