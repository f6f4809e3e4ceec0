"""Dropout for CPUs that needs a quarter as many random numbers as torch's. Imports torch."""

from __future__ import annotations

import torch
from torch import Tensor, nn

#: Number of values of an int16; each decides on one element.
_VALUES = 1 << 16


class CpuDropout(nn.Dropout):
    """Dropout whose probability is rounded to a multiple of 2^-16, so that a 64-bit random number serves 4 elements."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (the name of the base class)
        """Return the input with elements set to 0 at random and the others scaled by 1 / (1 - p); in training only."""
        dropped = round(self.p * _VALUES)
        if not self.training or not 0 < dropped < _VALUES:
            return super().forward(input)
        bits = torch.empty(-(-input.numel() // 4), dtype=torch.int64).random_(-(1 << 63), None)
        mask = torch.empty_like(input, requires_grad=False)
        torch.ge(bits.view(torch.int16)[: input.numel()].view(input.shape), dropped - _VALUES // 2, out=mask)
        return input * mask.mul_(_VALUES / (_VALUES - dropped))


def use_cpu_dropout(model: nn.Module) -> None:
    """Make each `torch.nn.Dropout` of a model a `CpuDropout`."""
    for module in model.modules():
        if type(module) is nn.Dropout:
            module.__class__ = CpuDropout  # settings, hooks and places in the model stay
