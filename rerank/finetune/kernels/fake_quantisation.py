"""LR-QAT: linear layers whose weight is rounded to an integer grid after a low-rank product is added to it."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from peft.tuners.lora.layer import Linear
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from rerank.errors import UsageError
from rerank.finetune.kernels import peft_files


def round_straight_through(values: Tensor) -> Tensor:
    """Round to the nearest integer; in the backward pass, gradients pass unchanged (straight-through estimator)."""
    return values + (values.round() - values).detach()


def quantisation_steps(weight: Tensor, bits: int, group: int) -> Tensor:
    """Return the step size max |weight| / (2^(bits-1) - 1) of each group of columns, shape (rows, columns / group).

    A group in which all weights are 0 has the step size 1.
    """
    rows, columns = weight.shape
    largest = weight.detach().float().reshape(rows, columns // group, group).abs().amax(-1)
    step = largest / (2 ** (bits - 1) - 1)
    return torch.where(step == 0, torch.ones_like(step), step)


class FakeQuantisedLinear(Linear):  # type: ignore[misc, unused-ignore]  # where peft is not installed, it is Any
    """Linear layer that rounds the sum of its fixed weight W and a trained low-rank product to an integer grid.

    y = s clip(round(W / s + scaling B A), -2^(bits-1), 2^(bits-1) - 1) x + bias, with a fixed step size s per ``group``
    columns, or per row if ``group`` is None. The rounded weight is recomputed in the backward pass, since storing those
    of all layers would take as much memory as the model.
    """

    step: Tensor

    def __init__(self, base_layer: Any, adapter_name: str, *, bits: int, group: int | None, **options: Any) -> None:
        super().__init__(base_layer, adapter_name, **options)
        self.bits = bits
        self.group = base_layer.in_features if group is None else group
        self.register_buffer("step", quantisation_steps(base_layer.weight, bits, self.group))

    def integers(self) -> Tensor:
        """Return the quantised weight in units of the step size: whole numbers, as floats that can have gradients."""
        # round(W / s + scaling B A), clipped to the signed range of ``bits`` bits; all of shape (rows, columns).
        layer: Any = self.get_base_layer()
        base = layer.weight.float() / self._step_matrix()
        factors: Any = (self.lora_A, self.lora_B)
        a, b = (factor[peft_files.ADAPTER].weight for factor in factors)
        shifted: Tensor = base + self.scaling[peft_files.ADAPTER] * (b @ a)
        return round_straight_through(shifted).clamp(-(2 ** (self.bits - 1)), 2 ** (self.bits - 1) - 1)

    def quantised(self) -> Tensor:
        """Return the quantised weight (integers times step size), in float32, of shape (rows, columns)."""
        return self.integers() * self._step_matrix()

    def _step_matrix(self) -> Tensor:
        return self.step.repeat_interleave(self.group, dim=1)  # (rows, columns)

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if self.disable_adapters or self.merged:
            outputs: Tensor = super().forward(x, *args, **kwargs)
        elif torch.is_grad_enabled():
            outputs = checkpoint(self._quantised_forward, x, use_reentrant=False)
        else:
            outputs = self._quantised_forward(x)
        return outputs

    def _quantised_forward(self, x: Tensor) -> Tensor:
        layer: Any = self.get_base_layer()
        return functional.linear(x, self.quantised().to(x.dtype), layer.bias)

    def get_delta_weight(self, adapter: str) -> Tensor:
        """Return the quantised weight minus the weight of the base model, shape (rows, columns)."""
        layer: Any = self.get_base_layer()
        weight: Tensor = layer.weight
        return (self.quantised() - weight.float()).to(weight.dtype)

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Replace the base weight; adding the difference would not reproduce the quantised weight exactly."""
        if self.merged:
            return
        layer: Any = self.get_base_layer()
        weight = layer.weight
        weight.data = self.quantised().detach().to(weight.dtype)
        self.merged_adapters.append(peft_files.ADAPTER)

    def unmerge(self) -> None:
        if self.merged:
            raise UsageError(
                "Rounded weights cannot be unmerged", remedy="Load the base model and the trained adapter again"
            )


def peft_config(names: Sequence[str], *, r: int, alpha: float, bits: int, group: int | None) -> Any:
    """Return a LoRA configuration whose layers quantise their weights."""
    config = peft_files.lora_config(dict.fromkeys(names, r), dict.fromkeys(names, float(alpha)))
    config._register_custom_module({torch.nn.Linear: partial(FakeQuantisedLinear, bits=bits, group=group)})
    return config


@torch.no_grad()
def save(model: Any, folder: Path, integers_file: str, *, bits: int) -> None:
    """Write the model with rounded weights, and a file with the integers and their step sizes."""
    base = model.get_base_model()
    tensors = {
        name.replace(".base_layer.", "."): tensor for name, tensor in base.state_dict().items() if ".lora_" not in name
    }
    integers = {}
    for name, layer in peft_files.iter_lora_layers(model):
        del tensors[f"{name}.step"]
        weight = tensors[f"{name}.weight"]
        tensors[f"{name}.weight"] = layer.quantised().to(weight.dtype)
        integers[f"{name}.weight"] = layer.integers().to("cpu", torch.int8)
        integers[f"{name}.step"] = layer.step.cpu()
    base.save_pretrained(folder, state_dict=tensors)
    save_file(integers, folder / integers_file, metadata={"format": "pt", "bits": str(bits)})
