"""LoftQ's initialisation of LoRA factors on quantised layers, for the option ``init`` of the adapter QLoRA."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from rerank.finetune.adapters.base import peft_files


def initialise_loftq(
    model: Any, originals: Mapping[str, torch.Tensor], dequantise: Callable[[Any], torch.Tensor]
) -> None:
    """Initialise the factors with the best rank-r approximation of the quantisation error W - Q(W).

    This is one iteration of LoftQ (Li et al., ICLR 2024, arXiv 2310.08659, algorithm 1 with T = 1) for a given Q(W).

    Args:
        model: A `peft.PeftModel` with LoRA on quantised layers.
        originals: Mapping from module name to the weight W before quantisation, shape (rows, columns).
        dequantise: Function that returns the weight Q(W) of a quantised layer in float32.
    """
    for name, layer in peft_files.iter_lora_layers(model):
        a, b = layer.lora_A[peft_files.ADAPTER].weight, layer.lora_B[peft_files.ADAPTER].weight
        # W - Q = U S V' (rows, columns); both factors get sqrt(S / scaling), so that scaling B A = U_r S_r V_r'.
        error = originals[name].to(a.device).float() - dequantise(layer.get_base_layer())
        u, s, v = torch.linalg.svd(error, full_matrices=False)
        root = (s[: len(a)] / layer.scaling[peft_files.ADAPTER]).sqrt()
        b.data = (u[:, : len(a)] * root).to(b.dtype).contiguous()
        a.data = (root[:, None] * v[: len(a)]).to(a.dtype).contiguous()
