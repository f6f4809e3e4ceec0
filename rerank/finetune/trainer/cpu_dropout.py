"""Dropout on a CPU that draws a quarter of the random numbers of torch's. Imports torch."""

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
        kept = bits.view(torch.int16)[: input.numel()].view(input.shape) >= dropped - _VALUES // 2
        return input * kept.to(input.dtype).mul_(_VALUES / (_VALUES - dropped))


def use_cpu_dropout(model: nn.Module) -> None:
    """Replace each `torch.nn.Dropout` of a model by a `CpuDropout`."""
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if type(child) is nn.Dropout:
                setattr(parent, name, CpuDropout(child.p).train(child.training))
