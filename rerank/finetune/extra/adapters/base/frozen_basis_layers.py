"""Modules that replace the factors A and B of a peft LoRA layer: frozen bases with few trainable parameters.

Bases are registered as buffers, so code that enables gradients for all adapter parameters does not affect them. Each
module has a property ``weight``, the factor of the equivalent plain LoRA, so that merging and saving need no special
case. A basis takes as much memory as a LoRA factor; only gradients and optimizer state become smaller.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

Tensor = torch.Tensor


class UpProjection(nn.Module):
    """Module that computes y = B h with a frozen basis B of shape (rows, r)."""

    basis: Tensor

    def __init__(self, basis: Tensor) -> None:
        """Register the basis in float32, independent of the model's data type."""
        super().__init__()
        self.register_buffer("basis", basis.detach().float().contiguous())

    @property
    def weight(self) -> Tensor:
        """Factor B, shape (rows, r)."""
        return self.basis

    def forward(self, inputs: Tensor) -> Tensor:
        """Map an input of shape (..., r) to an output of shape (..., rows)."""
        return functional.linear(inputs, self.basis)


class DownProjection(nn.Module):
    """Module that computes h = (R - R0) A x with a frozen basis A of shape (r, columns).

    R is trained, and R0 is fixed. Both are matrices of shape (r, r), or diagonal matrices stored with shape (r,).
    """

    basis: Tensor
    start: Tensor

    def __init__(self, basis: Tensor, core: Tensor, start: Tensor) -> None:
        """Register the basis A and R0 (``start``), and make R (``core``) trainable."""
        super().__init__()
        self.register_buffer("basis", basis.detach().float().contiguous())
        self.register_buffer("start", start.detach().float().clone())
        self.core = nn.Parameter(core.detach().float().clone())

    @property
    def weight(self) -> Tensor:
        """Factor (R - R0) A, shape (r, columns)."""
        learnt_core = self.core - self.start
        return learnt_core[:, None] * self.basis if learnt_core.ndim == 1 else learnt_core @ self.basis

    def forward(self, inputs: Tensor) -> Tensor:
        """Map an input of shape (..., columns) to an output of shape (..., r)."""
        learnt_core = self.core - self.start
        projected = functional.linear(inputs, self.basis)  # (..., r)
        return projected * learnt_core if learnt_core.ndim == 1 else functional.linear(projected, learnt_core)


class SpectralDownProjection(nn.Module):
    """Module that computes h = [((a - 1) s + b) V1' x; Y V2' x] for the right singular vectors V = [V1 V2] of a matrix.

    ``gain`` a and ``shift`` b, both of shape (r,), scale and shift the r largest singular values s. ``mix`` Y, of shape
    (d, k - r), combines the other k - r directions.
    """

    basis: Tensor
    values: Tensor

    def __init__(self, directions: Tensor, values: Tensor, d: int) -> None:
        """Register V' of shape (k, columns) and the r largest singular values; initialise a = 1, b = 0 and Y = 0."""
        super().__init__()
        self.register_buffer("basis", directions.detach().float().contiguous())
        self.register_buffer("values", values.detach().float().clone())
        self.gain = nn.Parameter(torch.ones_like(self.values))
        self.shift = nn.Parameter(torch.zeros_like(self.values))
        self.mix = nn.Parameter(self.values.new_zeros(d, len(directions) - len(values)))

    @property
    def weight(self) -> Tensor:
        """Factor A, shape (r + d, columns)."""
        r = len(self.values)
        return torch.cat([self._value_changes()[:, None] * self.basis[:r], self.mix @ self.basis[r:]])

    def forward(self, inputs: Tensor) -> Tensor:
        """Map an input of shape (..., columns) to an output of shape (..., r + d)."""
        r = len(self.values)
        projected = functional.linear(inputs, self.basis)  # (..., k): coordinates in all singular directions
        mixed = functional.linear(projected[..., r:], self.mix)  # (..., d)
        return torch.cat([projected[..., :r] * self._value_changes(), mixed], dim=-1)

    def _value_changes(self) -> Tensor:
        # Shape (r,): (a s + b) - s, the difference from the original singular values s.
        return (self.gain - 1) * self.values + self.shift


class SpectralUpProjection(nn.Module):
    """Module that computes y = U1 h1 + U2 X h2, with the left singular vectors U = [U1 U2] of a matrix.

    ``mix`` X, of shape (k - r, d), is trained.
    """

    basis: Tensor

    def __init__(self, directions: Tensor, r: int, d: int) -> None:
        """Register U of shape (rows, k), and initialise X at random with torch's global generator, like A in LoRA."""
        super().__init__()
        self.register_buffer("basis", directions.detach().float().contiguous())
        self.r = r
        initial = torch.empty(d, directions.shape[1] - r)  # on the CPU, where a seed gives the same values everywhere
        nn.init.kaiming_uniform_(initial, a=5**0.5)
        self.mix = nn.Parameter(initial.T.contiguous().to(self.basis.device))

    @property
    def weight(self) -> Tensor:
        """Factor B, shape (rows, r + d)."""
        return torch.cat([self.basis[:, : self.r], self.basis[:, self.r :] @ self.mix], dim=1)

    def forward(self, inputs: Tensor) -> Tensor:
        """Map an input of shape (..., r + d) to an output of shape (..., rows)."""
        mixed = functional.linear(inputs[..., self.r :], self.mix)
        return functional.linear(torch.cat([inputs[..., : self.r], mixed], dim=-1), self.basis)
