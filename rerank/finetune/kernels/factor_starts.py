"""Gradients of weight matrices under the training loss, and initial factors of LoRA that are not 0.

They start along the gradient (LoRA-GA), or from the error of a quantisation to four bits by bitsandbytes (LoftQ).
"""

from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rerank.errors import BackendError, UsageError
from rerank.finetune.components import CalibrationBatches
from rerank.finetune.kernels import peft_files
from rerank.finetune.kernels.peft_files import ADAPTER, iter_lora_layers

#: Size of the random subspace in units of r, and number of its power iterations, in the authors' code of LoRA-GA.
_OVERSAMPLING, _ITERATIONS = 4, 4


def mean_loss_gradients(
    model: Any, names: Sequence[str], calibrate: CalibrationBatches, *, lists: int | None = None
) -> dict[str, Tensor]:
    """Return a mapping from module name to the gradient of the mean loss, in float32, of shape (rows, columns).

    A gradient is 0 if the loss does not depend on the weight, such as in layers above those whose attention a loss
    reads. The model is unchanged afterwards. ``lists`` is the number of training lists over which the loss is averaged;
    None for the default of the batches.
    """
    weights = {name: model.get_submodule(name).weight for name in names}
    for name, weight in weights.items():
        if not weight.is_floating_point():
            raise UsageError(
                f"{name} is quantised ({weight.dtype}) and has no gradient", remedy="Load the model in 16 or 32 bits"
            )
    # The caller's flags and gradients are restored below, even if the loss fails.
    before = [(parameter, parameter.requires_grad, parameter.grad) for parameter in model.parameters()]
    try:
        # Only the targets collect gradients, so memory holds one gradient per target, in the data type of the weight.
        for parameter, _, _ in before:
            parameter.requires_grad_(False)
            parameter.grad = None
        for weight in weights.values():
            weight.requires_grad_(True)
        with torch.enable_grad():
            calibrate.backward(model, lists)
        if all(weight.grad is None for weight in weights.values()):
            raise BackendError(
                f"The loss depends on none of the {len(names)} target matrices, the first of which is {names[0]}",
                expected="targets that the loss depends on",
                remedy="Choose other targets, or let the loss read higher layers",
            )
        gradients = {}
        for name, weight in weights.items():
            if weight.grad is not None and not torch.isfinite(weight.grad).all():
                raise BackendError(f"The gradient of {name} is not finite", remedy="Calibrate in float32 or bfloat16")
            # autograd leaves the gradient None if the loss does not depend on the weight.
            zero = weight.grad is None
            gradients[name] = torch.zeros_like(weight, dtype=torch.float32) if zero else weight.grad.detach().float()
        return gradients
    finally:
        for parameter, requires_grad, gradient in before:
            parameter.requires_grad_(requires_grad)
            parameter.grad = gradient


def gradient_start_factors(gradient: Tensor, r: int, gamma: float) -> tuple[Tensor, Tensor]:
    """Compute B0 (rows, r) and A0 (r, columns) of LoRA-GA from a gradient (rows, columns) with a randomised SVD.

    B0 = k U[:, r:2r] and A0 = k V[:, :r]' with k = rows^(1/4) / sqrt(gamma). Source: Wang et al., arXiv 2407.05000,
    section 3 and the initialisation "ArB2r" with the scale "stable" of the authors' code.
    """
    u, _, v = torch.svd_lowrank(gradient, q=min(_OVERSAMPLING * r, *gradient.shape), niter=_ITERATIONS)
    scale = len(gradient) ** 0.25 / gamma**0.5
    return scale * u[:, r : 2 * r], scale * v[:, :r].T


@torch.no_grad()
def start_along_gradients(model: Any, gradients: Mapping[str, Tensor], gamma: float) -> None:
    """Initialise LoRA layers and their buffers ``start_A`` and ``start_B``, and subtract s B0 A0 from the base weights.

    A layer whose gradient is 0 keeps the initial factors of LoRA.
    """
    for name, layer in iter_lora_layers(model):
        if not gradients[name].any():
            continue
        b, a = gradient_start_factors(gradients[name], layer.r[ADAPTER], gamma)
        base = layer.get_base_layer().weight
        # The subtraction is in float32, and rounded once to the data type of the base weights.
        base.copy_(base.float() - layer.scaling[ADAPTER] * b @ a)
        for tensor, value in (
            (layer.lora_A[ADAPTER].weight, a),
            (layer.lora_B[ADAPTER].weight, b),
            (layer.start_A, a),
            (layer.start_B, b),
        ):
            tensor.copy_(value)


def store_start(model: Any) -> None:
    """Store a copy of the current factors of all LoRA layers in their buffers ``start_A`` and ``start_B``."""
    layers = dict(iter_lora_layers(model))
    for name, (b, a) in peft_files.read_factors(model).items():
        layers[name].register_buffer("start_B", b.clone())
        layers[name].register_buffer("start_A", a.clone())


def save_difference(model: Any, folder: Path) -> None:
    """Write s (B A - B0 A0) as a LoRA, where B0 and A0 are the factors that `store_start` stored."""
    layers = dict(iter_lora_layers(model))
    # B A - B0 A0 = [B, -B0] [A; A0], with factors of shapes (rows, 2 r) and (2 r, columns).
    learnt = {
        name: (torch.cat([b, -layers[name].start_B], dim=1), torch.cat([a, layers[name].start_A]))
        for name, (b, a) in peft_files.read_factors(model).items()
    }
    scaling = float(next(layer.scaling[ADAPTER] for layer in layers.values()))  # the same for all matrices
    peft_files.save_factors(model, learnt, folder, scaling=scaling)


def quantise_layers(model: Any, names: Sequence[str]) -> None:
    """Replace linear layers by four-bit layers of bitsandbytes (NF4 with double quantisation), in place.

    The model is on the device where it will be trained, and ``names`` are full names.
    """
    bitsandbytes = import_module("bitsandbytes")  # by name, since it has no types
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


def dequantise(layer: Any) -> Tensor:
    """Return the dequantised weight of a layer, in float32."""
    functional, weight = import_module("bitsandbytes").functional, layer.weight
    values: Tensor = functional.dequantize_4bit(weight.data, weight.quant_state)
    return values.float()


def start_from_quantisation_error(model: Any, originals: Mapping[str, Tensor]) -> None:
    """Initialise the LoRA factors with the best rank-r approximation of the quantisation error W - Q(W).

    ``originals`` has the weight W before quantisation, shape (rows, columns), per module name. This is one iteration of
    LoftQ (Li et al., ICLR 2024, arXiv 2310.08659, algorithm 1 with T = 1) for a given Q(W).
    """
    for name, layer in iter_lora_layers(model):
        a, b = layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight
        # W - Q = U S V' (rows, columns); both factors get sqrt(S / scaling), so that scaling B A = U_r S_r V_r'.
        error = originals[name].to(a.device).float() - dequantise(layer.get_base_layer())
        u, s, v = torch.linalg.svd(error, full_matrices=False)
        root = (s[: len(a)] / layer.scaling[ADAPTER]).sqrt()
        b.data = (u[:, : len(a)] * root).to(b.dtype).contiguous()
        a.data = (root[:, None] * v[: len(a)]).to(a.dtype).contiguous()
