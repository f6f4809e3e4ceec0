"""Factors whose bases are fixed and between which little trains. Knows torch and where peft keeps factors.

`Down` and `Up` and their like stand where a LoRA layer of peft has its linear maps A and B. Bases are buffers, so that
nothing that turns gradients on for "the adapter" reaches them, and ``weight`` is the factor that a plain LoRA would
have, so that merging and saving need to know nothing of this. Memory: a basis is as large as a factor of LoRA; what
shrinks is gradients and optimizer state.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

Tensor = torch.Tensor


class Up(nn.Module):
    """y = B h, with B (rows, r) fixed."""

    basis: Tensor

    def __init__(self, basis: Tensor) -> None:
        """Keep the basis, in float32, whatever the model is in."""
        super().__init__()
        self.register_buffer("basis", basis.detach().float().contiguous())

    @property
    def weight(self) -> Tensor:
        """(rows, r) the factor."""
        return self.basis

    def forward(self, inputs: Tensor) -> Tensor:
        """(..., r) -> (..., rows)."""
        return functional.linear(inputs, self.basis)


class Down(nn.Module):
    """h = (R - R0) A x, with A (r, columns) fixed and R trained, (r, r) or the diagonal (r,) alone."""

    basis: Tensor
    start: Tensor

    def __init__(self, basis: Tensor, core: Tensor, start: Tensor) -> None:
        """Keep the basis and R0 (``start``), and train ``core`` as R."""
        super().__init__()
        self.register_buffer("basis", basis.detach().float().contiguous())
        self.register_buffer("start", start.detach().float().clone())
        self.core = nn.Parameter(core.detach().float().clone())

    @property
    def weight(self) -> Tensor:
        """(r, columns) the factor."""
        learnt = self.core - self.start
        return learnt[:, None] * self.basis if learnt.ndim == 1 else learnt @ self.basis

    def forward(self, inputs: Tensor) -> Tensor:
        """(..., columns) -> (..., r)."""
        learnt = self.core - self.start
        seen = functional.linear(inputs, self.basis)
        return seen * learnt if learnt.ndim == 1 else functional.linear(seen, learnt)


class SpectrumDown(nn.Module):
    """h = [((a - 1) s + b) V1' x; Y V2' x] for the singular directions V = [V1 V2] of a matrix.

    ``gain`` a and ``shift`` b (r,) scale and move the r largest singular values s; ``mix`` Y (d, rest) mixes the
    others.
    """

    basis: Tensor
    values: Tensor

    def __init__(self, directions: Tensor, values: Tensor, d: int) -> None:
        """Take V' (k, columns) and the r largest singular values."""
        super().__init__()
        self.register_buffer("basis", directions.detach().float().contiguous())
        self.register_buffer("values", values.detach().float().clone())
        self.gain = nn.Parameter(torch.ones_like(self.values))
        self.shift = nn.Parameter(torch.zeros_like(self.values))
        self.mix = nn.Parameter(self.values.new_zeros(d, len(directions) - len(values)))

    @property
    def weight(self) -> Tensor:
        """(r + d, columns) the factor."""
        r = len(self.values)
        return torch.cat([self._learnt()[:, None] * self.basis[:r], self.mix @ self.basis[r:]])

    def forward(self, inputs: Tensor) -> Tensor:
        """(..., columns) -> (..., r + d)."""
        r = len(self.values)
        seen = functional.linear(inputs, self.basis)
        return torch.cat([seen[..., :r] * self._learnt(), functional.linear(seen[..., r:], self.mix)], dim=-1)

    def _learnt(self) -> Tensor:
        return (self.gain - 1) * self.values + self.shift


class SpectrumUp(nn.Module):
    """y = U1 h1 + U2 X h2 for the singular directions U = [U1 U2] of a matrix; ``mix`` X (rest, d) trains."""

    basis: Tensor

    def __init__(self, directions: Tensor, r: int, d: int) -> None:
        """Take U (rows, k); X is drawn from torch's generator, as LoRA's A is."""
        super().__init__()
        self.register_buffer("basis", directions.detach().float().contiguous())
        self.r = r
        drawn = torch.empty(d, directions.shape[1] - r)  # drawn on the CPU, where a seed gives the same everywhere
        nn.init.kaiming_uniform_(drawn, a=5**0.5)
        self.mix = nn.Parameter(drawn.T.contiguous().to(self.basis.device))

    @property
    def weight(self) -> Tensor:
        """(rows, r + d) the factor."""
        return torch.cat([self.basis[:, : self.r], self.basis[:, self.r :] @ self.mix], dim=1)

    def forward(self, inputs: Tensor) -> Tensor:
        """(..., r + d) -> (..., rows)."""
        mixed = functional.linear(inputs[..., self.r :], self.mix)
        return functional.linear(torch.cat([inputs[..., : self.r], mixed], dim=-1), self.basis)
