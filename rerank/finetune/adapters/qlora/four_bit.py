"""Quantisation of linear layers to four bits with bitsandbytes."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Any

import torch


def quantise_qlora_layers(model: Any, names: Sequence[str]) -> None:
    """Replace linear layers by four-bit layers of bitsandbytes (NF4 with double quantisation), in place.

    Args:
        model: A model of transformers, on the device where it will be trained.
        names: Full names of the layers.
    """
    bitsandbytes = _import_qlora_bitsandbytes()
    for name in names:
        linear = model.get_submodule(name)
        weight = linear.weight
        quantised = bitsandbytes.nn.Linear4bit(
            linear.in_features,
            linear.out_features,
            bias=linear.bias is not None,
            compute_dtype=weight.dtype,
            compress_statistics=True,
            quant_type="nf4",
        )
        quantised.weight = bitsandbytes.nn.Params4bit(
            weight.data, requires_grad=False, compress_statistics=True, quant_type="nf4"
        )
        quantised.bias = linear.bias
        # bitsandbytes quantises the weight when the layer is moved to the device.
        model.set_submodule(name, quantised.to(weight.device).requires_grad_(False))
    model.is_loaded_in_4bit = True  # peft reads this attribute


def dequantise_qlora_weight(layer: Any) -> torch.Tensor:
    """Return the dequantised weight of a layer, in float32, of shape (rows, columns)."""
    weight: torch.Tensor = _import_qlora_bitsandbytes().functional.dequantize_4bit(
        layer.weight.data, layer.weight.quant_state
    )
    return weight.float()


def _import_qlora_bitsandbytes() -> Any:
    # Imported by name, since bitsandbytes has no type annotations and is not installed where types are checked.
    return import_module("bitsandbytes")
