"""A linear layer whose weight is rounded to a grid of whole numbers after a product of factors is added to it.

Knows peft's LoRA layer, which it is one of, and the grid; no files.
"""

from __future__ import annotations

from typing import Any

import torch
from peft.tuners.lora.layer import Linear
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from rerank.errors import UsageError
from rerank.finetune.adapters.base import peft_files

Tensor = torch.Tensor


def round_through(values: Tensor) -> Tensor:
    """Round to the nearest whole number; the gradient passes as if nothing had been rounded."""
    return values + (values.round() - values).detach()


def grid(weight: Tensor, bits: int, group: int) -> Tensor:
    """(rows, columns / group) the step s of each group of a row: its largest |weight| over 2^(bits-1) - 1.

    A group of zeros has the step 1.
    """
    rows, columns = weight.shape
    largest = weight.detach().float().reshape(rows, columns // group, group).abs().amax(-1)
    step = largest / (2 ** (bits - 1) - 1)
    return torch.where(step == 0, torch.ones_like(step), step)


class QuantisedLinear(Linear):  # type: ignore[misc, unused-ignore]  # where peft is not installed, it is Any
    """y = s clip(round(W / s + scaling B A), -2^(bits-1), 2^(bits-1) - 1) x + bias, with W and s fixed.

    The rounded weight is computed again for the backward pass, since keeping those of all layers would take as much
    memory as the model.
    """

    step: Tensor

    def __init__(self, base_layer: Any, adapter_name: str, *, bits: int, group: int | None, **options: Any) -> None:
        """Take a linear layer, and what peft gives to its own.

        Args:
            base_layer: The linear layer.
            adapter_name: See peft.
            bits: Of a whole number, its sign included.
            group: Columns that share a step; None for a whole row.
            **options: See peft.
        """
        super().__init__(base_layer, adapter_name, **options)
        self.bits = bits
        self.group = base_layer.in_features if group is None else group
        self.register_buffer("step", grid(base_layer.weight, bits, self.group))

    def integers(self) -> Tensor:
        """(rows, columns) the whole numbers, as floating-point numbers that have a gradient."""
        base = self._base().weight.float() / self._spread()
        a, b = self._factor(self.lora_A), self._factor(self.lora_B)
        moved = base + self.scaling[peft_files.ADAPTER] * (b @ a)
        return round_through(moved).clamp(-(2 ** (self.bits - 1)), 2 ** (self.bits - 1) - 1)

    def quantised(self) -> Tensor:
        """(rows, columns) the weight in use, in float32."""
        return self.integers() * self._spread()

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """(..., columns) -> (..., rows)."""
        if self.disable_adapters or self.merged:
            answer: Tensor = super().forward(x, *args, **kwargs)
        elif torch.is_grad_enabled():
            answer = checkpoint(self._through, x, use_reentrant=False)
        else:
            answer = self._through(x)
        return answer

    def get_delta_weight(self, adapter: str) -> Tensor:
        """(rows, columns) what the weight in use has more than the base model's."""
        weight = self._base().weight
        difference: Tensor = self.quantised() - weight.float()
        return difference.to(weight.dtype)

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Put the weight in use in the place of the base model's: exactly, which adding a difference would not be."""
        if self.merged:
            return
        weight = self._base().weight
        weight.data = self.quantised().detach().to(weight.dtype)
        self.merged_adapters.append(peft_files.ADAPTER)

    def unmerge(self) -> None:
        """Refuse: what was rounded away is gone.

        Raises:
            UsageError: Always, if it was merged.
        """
        if self.merged:
            raise UsageError("Rounded weights cannot be unmerged", remedy="Load the base model and the run again")

    def _through(self, x: Tensor) -> Tensor:
        base = self._base()
        return functional.linear(x, self.quantised().to(x.dtype), base.bias)

    def _factor(self, factors: Any) -> Tensor:
        weight: Tensor = factors[peft_files.ADAPTER].weight
        return weight

    def _base(self) -> Any:
        return self.get_base_layer()

    def _spread(self) -> Tensor:
        return self.step.repeat_interleave(self.group, dim=1)
