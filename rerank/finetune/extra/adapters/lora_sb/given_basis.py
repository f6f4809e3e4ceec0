"""The bases of a LoRA-SB adapter that is there already, read from its files. Knows how such an adapter is saved.

Imports torch at its top.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from rerank.errors import DataError, UsageError
from rerank.finetune.adapters.base.frozen_basis_layers import Down, Up
from rerank.finetune.inspection.checkpoints import Checkpoint
from rerank.finetune.inspection.deltas import factors_of, is_plain, scaling
from rerank.finetune.inspection.subject import read_settings

#: How far from orthonormal the columns of B may be: they were so in float32.
_ROUNDING = 1e-3


def read_basis(folder: Path, ranks: Mapping[str, int]) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Module name -> (B, A) of an adapter that was saved as LoRA-SB's are: scale 1, and orthonormal columns in B.

    Args:
        folder: The adapter's.
        ranks: Module name -> rank, of what is to be trained.

    Raises:
        DataError: It is another kind of adapter, or its files are damaged.
        UsageError: It adapts other matrices, or has another rank.
    """
    stored, config = Checkpoint(folder / "adapter_model.safetensors"), read_settings(folder)
    found = factors_of(stored) if is_plain(stored, config) else {}
    if not found:
        raise _other(folder, "is no plain LoRA")
    if wrong := found.keys() ^ ranks.keys():
        raise UsageError(
            f"basis = {str(folder)!r} and the targets differ in {len(wrong)} modules, such as {min(wrong)}",
            expected="the same targets and layers as the basis was made with",
        )
    factors = {}
    for name, keys in found.items():
        b, a = stored.read(keys["B"]), stored.read(keys["A"])
        if len(a) != ranks[name]:
            raise UsageError(
                f"basis = {str(folder)!r} has rank {len(a)}, and r = {ranks[name]}", remedy=f"Set r = {len(a)}"
            )
        if scaling(config, name, len(a)) != 1 or (b.T @ b - torch.eye(len(a))).abs().max() > _ROUNDING:
            raise _other(folder, f"has a scale, or a B in {name} whose columns are not orthonormal")
        factors[name] = (b, a)
    return factors


def between(b: torch.Tensor, a: torch.Tensor) -> tuple[Down, Up]:
    """The parts of B R Q, Q (r, columns) orthonormal rows that span those of A, R beginning so that R Q = A.

    A holds a core that was trained; its own rows would be a basis as uneven as that core.

    Args:
        b: (rows, r), kept to the bit.
        a: (r, columns).
    """
    q, t = torch.linalg.qr(a.T)
    return Down(q.T, t.T, torch.zeros_like(t)), Up(b)


def _other(folder: Path, why: str) -> DataError:
    return DataError(
        f"basis = {str(folder)!r}: the adapter {why}",
        expected="what training with the adapter lora-sb left, or the mean of such",
    )
