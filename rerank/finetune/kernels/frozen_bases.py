"""Modules that replace the factors A and B of a peft LoRA layer: frozen bases with few trainable parameters.

Bases are registered as buffers, so code that enables gradients for all adapter parameters does not affect them. Each
module has a property ``weight``, the factor of the equivalent plain LoRA, so that merging and saving need no special
case. A basis takes as much memory as a LoRA factor; only gradients and optimizer state become smaller.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from rerank.errors import DataError, UsageError
from rerank.finetune.inspection.checkpoints import (
    CheckpointReader,
    is_plain_lora,
    lora_scaling,
    names_of_lora_factors,
    read_peft_config,
)
from rerank.finetune.kernels.peft_files import ADAPTER, iter_lora_layers

#: Tolerance for the orthonormality of the columns of B, which were computed in float32.
_ROUNDING = 1e-3


class UpProjection(nn.Module):
    """Module that computes y = B h with a frozen basis B of shape (rows, r), in float32."""

    basis: Tensor

    def __init__(self, basis: Tensor) -> None:
        super().__init__()
        self.register_buffer("basis", basis.detach().float().contiguous())

    @property
    def weight(self) -> Tensor:
        """Factor B, shape (rows, r)."""
        return self.basis

    def forward(self, inputs: Tensor) -> Tensor:
        return functional.linear(inputs, self.basis)


class DownProjection(nn.Module):
    """Module that computes h = (R - R0) A x with a frozen basis A of shape (r, columns).

    R (``core``) is trained, and R0 (``start``) is fixed. Both are matrices of shape (r, r), or diagonal matrices stored
    with shape (r,).
    """

    basis: Tensor
    start: Tensor

    def __init__(self, basis: Tensor, core: Tensor, start: Tensor) -> None:
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
        learnt_core = self.core - self.start
        projected = functional.linear(inputs, self.basis)  # (..., r)
        return projected * learnt_core if learnt_core.ndim == 1 else functional.linear(projected, learnt_core)


class SpectralDownProjection(nn.Module):
    """Module that computes h = [((a - 1) s + b) V1' x; Y V2' x] for the right singular vectors V = [V1 V2] of a matrix.

    ``gain`` a and ``shift`` b, both of shape (r,), scale and shift the r largest singular values s. ``mix`` Y, of shape
    (d, k - r), combines the other k - r directions. At the start, a = 1, b = 0 and Y = 0. ``directions`` is V' of shape
    (k, columns), and ``values`` are the r largest singular values.
    """

    basis: Tensor
    values: Tensor

    def __init__(self, directions: Tensor, values: Tensor, d: int) -> None:
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
        r = len(self.values)
        projected = functional.linear(inputs, self.basis)  # (..., k): coordinates in all singular directions
        mixed = functional.linear(projected[..., r:], self.mix)  # (..., d)
        return torch.cat([projected[..., :r] * self._value_changes(), mixed], dim=-1)

    def _value_changes(self) -> Tensor:
        # Shape (r,): (a s + b) - s, the difference from the original singular values s.
        return (self.gain - 1) * self.values + self.shift


class SpectralUpProjection(nn.Module):
    """Module that computes y = U1 h1 + U2 X h2, with the left singular vectors U = [U1 U2] of a matrix.

    ``mix`` X, of shape (k - r, d), is trained. It is drawn at random with torch's global generator, like A in LoRA.
    ``directions`` is U of shape (rows, k).
    """

    basis: Tensor

    def __init__(self, directions: Tensor, r: int, d: int) -> None:
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
        mixed = functional.linear(inputs[..., self.r :], self.mix)
        return functional.linear(torch.cat([inputs[..., : self.r], mixed], dim=-1), self.basis)


def replace_factors(model: Any, build: Callable[[str, Tensor], tuple[nn.Module, nn.Module]], *, seed: int) -> None:
    """Replace A and B of each LoRA layer by the modules that ``build`` makes of its name and its float32 weight."""
    torch.manual_seed(seed)  # some bases are drawn at random
    for name, layer in iter_lora_layers(model):
        weight = layer.get_base_layer().weight.detach()
        layer.lora_A[ADAPTER], layer.lora_B[ADAPTER] = build(name, weight.float())


# The modules (A, B) of each adapter, for a float32 matrix of shape (rows, columns); k = min(rows, columns)


def lora_xs_modules(matrix: Tensor, r: int) -> tuple[nn.Module, nn.Module]:
    """Return modules for R V' (trainable R = 0) and for the frozen U S."""
    u, s, v = torch.linalg.svd(matrix, full_matrices=False)  # U (rows, k), s (k,), V' (k, columns)
    zero = matrix.new_zeros(r, r)
    return DownProjection(v[:r], zero, zero), UpProjection(u[:, :r] * s[:r])


def lora_sb_modules(first_step: Tensor, r: int) -> tuple[nn.Module, nn.Module]:
    """Return modules for R V' (trainable R = S) and for the frozen U, where U S V' is the SVD of the first step."""
    u, s, v = torch.linalg.svd(first_step, full_matrices=False)
    core = torch.diag(s[:r])
    return DownProjection(v[:r], core, torch.zeros_like(core)), UpProjection(u[:, :r])


def loldu_modules(matrix: Tensor, r: int) -> tuple[nn.Module, nn.Module]:
    """Return a module for the trainable pivots times U, and a module for the frozen factor P L."""
    permutation, lower, upper = torch.linalg.lu(matrix)
    pivots = upper.diagonal()
    # W = P L (D U'): D is the diagonal of the upper factor, and U' has a unit diagonal. If a pivot is 0, its row is not
    # divided, and the trained entry multiplies the row itself.
    unit = upper / torch.where(pivots == 0, torch.ones_like(pivots), pivots)[:, None]
    start = pivots[:r]
    return DownProjection(unit[:r], start, start), UpProjection(permutation @ lower[:, :r])


def salt_modules(matrix: Tensor, r: int, d: int) -> tuple[nn.Module, nn.Module]:
    """Return modules for all singular directions of the matrix, with the trainable parameters."""
    u, s, v = torch.linalg.svd(matrix, full_matrices=False)
    return SpectralDownProjection(v, s[:r], d), SpectralUpProjection(u, r, d)


def modules_between(b: Tensor, a: Tensor) -> tuple[nn.Module, nn.Module]:
    """Return modules for B R Q with R Q = A, where the rows of Q (r, columns) are an orthonormal basis of A's rows.

    The rows of A itself are no basis, because A contains a trained core, which may be badly conditioned.
    """
    # A' = Q T gives A = T' Q', so that R starts as T' (r, r) between B and the orthonormal rows Q' (r, columns).
    q, t = torch.linalg.qr(a.T)
    return DownProjection(q.T, t.T, torch.zeros_like(t)), UpProjection(b)


def read_lora_sb(folder: Path, ranks: Mapping[str, int]) -> dict[str, tuple[Tensor, Tensor]]:
    """Return (B, A) of a saved LoRA-SB by module, with orthonormal columns of B; ``ranks`` are the expected ones."""
    stored, config = CheckpointReader(folder / "adapter_model.safetensors"), read_peft_config(folder)
    if not (keys_of_factors := names_of_lora_factors(stored) if is_plain_lora(stored, config) else {}):
        raise _not_lora_sb(folder, "is not a plain LoRA")
    if wrong := keys_of_factors.keys() ^ ranks.keys():
        raise UsageError(
            f"basis = {str(folder)!r} and the targets differ in {len(wrong)} modules, such as {min(wrong)}",
            expected="the targets and layers that the basis was trained with",
        )
    factors = {}
    for name, keys in keys_of_factors.items():
        b, a = stored.read(keys["B"]), stored.read(keys["A"])
        if len(a) != ranks[name]:
            raise UsageError(
                f"basis = {str(folder)!r} has rank {len(a)}, but r = {ranks[name]}", remedy=f"Set r = {len(a)}"
            )
        if lora_scaling(config, name, len(a)) != 1 or (b.T @ b - torch.eye(len(a))).abs().max() > _ROUNDING:
            raise _not_lora_sb(folder, f"has a scale other than 1, or non-orthonormal columns of B, in {name}")
        factors[name] = (b, a)
    return factors


def _not_lora_sb(folder: Path, why: str) -> DataError:
    return DataError(
        f"basis = {str(folder)!r}: the adapter {why}",
        expected="an adapter trained with lora-sb, or an average of such adapters",
    )
