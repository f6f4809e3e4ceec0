"""Linear layers quantised to four bits with bitsandbytes, and LoftQ's initialisation of LoRA factors on them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

import torch

from rerank.finetune.kernels import peft_files


def move_to_gpu(model: Any) -> Any:
    """Return the model on a GPU."""
    return model.cuda() if model.device.type == "cpu" else model


def quantise_layers(model: Any, names: Sequence[str]) -> None:
    """Replace linear layers by four-bit layers of bitsandbytes (NF4 with double quantisation), in place.

    The model is on the device where it will be trained, and ``names`` are full names.
    """
    bitsandbytes = _bitsandbytes()
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


def dequantise(layer: Any) -> torch.Tensor:
    """Return the dequantised weight of a layer, in float32, of shape (rows, columns)."""
    functional, weight = _bitsandbytes().functional, layer.weight
    values: torch.Tensor = functional.dequantize_4bit(weight.data, weight.quant_state)
    return values.float()


def start_from_quantisation_error(model: Any, originals: Mapping[str, torch.Tensor]) -> None:
    """Initialise the LoRA factors with the best rank-r approximation of the quantisation error W - Q(W).

    ``originals`` has the weight W before quantisation, shape (rows, columns), per module name. This is one iteration of
    LoftQ (Li et al., ICLR 2024, arXiv 2310.08659, algorithm 1 with T = 1) for a given Q(W).
    """
    for name, layer in peft_files.iter_lora_layers(model):
        a, b = layer.lora_A[peft_files.ADAPTER].weight, layer.lora_B[peft_files.ADAPTER].weight
        # W - Q = U S V' (rows, columns); both factors get sqrt(S / scaling), so that scaling B A = U_r S_r V_r'.
        error = originals[name].to(a.device).float() - dequantise(layer.get_base_layer())
        u, s, v = torch.linalg.svd(error, full_matrices=False)
        root = (s[: len(a)] / layer.scaling[peft_files.ADAPTER]).sqrt()
        b.data = (u[:, : len(a)] * root).to(b.dtype).contiguous()
        a.data = (root[:, None] * v[: len(a)]).to(a.dtype).contiguous()


def _bitsandbytes() -> Any:
    # Imported by name, since bitsandbytes has no type annotations and is not installed where types are checked.
    return import_module("bitsandbytes")
