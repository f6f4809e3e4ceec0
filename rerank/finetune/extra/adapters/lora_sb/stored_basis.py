"""Read the basis of each matrix from the files of a LoRA-SB adapter. This module imports torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from rerank.errors import DataError, UsageError
from rerank.finetune.extra.adapters.base.frozen_basis_layers import DownProjection, UpProjection
from rerank.finetune.inspection.checkpoint_reader import CheckpointReader
from rerank.finetune.inspection.inspected_model import read_inspected_peft_config
from rerank.finetune.inspection.weight_changes import is_plain_lora, lora_scaling, names_of_lora_factors

#: Tolerance for the orthonormality of the columns of B, which were computed in float32.
_ROUNDING = 1e-3


def read_lora_basis(folder: Path, ranks: Mapping[str, int]) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Return a mapping from module name to the factors (B, A) of a saved LoRA-SB adapter; B has orthonormal columns.

    Args:
        folder: Folder of the adapter.
        ranks: Mapping from module name to the rank in the adapter that will be trained.
    """
    stored, config = CheckpointReader(folder / "adapter_model.safetensors"), read_inspected_peft_config(folder)
    keys_of_factors = names_of_lora_factors(stored) if is_plain_lora(stored, config) else {}
    if not keys_of_factors:
        raise _not_lora_sb_error(folder, "is not a plain LoRA")
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
            raise _not_lora_sb_error(folder, f"has a scale other than 1, or non-orthonormal columns of B, in {name}")
        factors[name] = (b, a)
    return factors


def factor_modules_between(b: torch.Tensor, a: torch.Tensor) -> tuple[DownProjection, UpProjection]:
    """Return modules for B R Q with R Q = A, where the rows of Q (r, columns) are an orthonormal basis of A's rows.

    The rows of A itself are not used as the basis: A contains a trained core, which may be badly conditioned.

    Args:
        b: Factor B of shape (rows, r), used unchanged.
        a: Factor A of shape (r, columns).
    """
    # A' = Q T gives A = T' Q', so that R starts as T' (r, r) between B and the orthonormal rows Q' (r, columns).
    q, t = torch.linalg.qr(a.T)
    return DownProjection(q.T, t.T, torch.zeros_like(t)), UpProjection(b)


def _not_lora_sb_error(folder: Path, why: str) -> DataError:
    return DataError(
        f"basis = {str(folder)!r}: the adapter {why}",
        expected="an adapter trained with lora-sb, or an average of such adapters",
    )
