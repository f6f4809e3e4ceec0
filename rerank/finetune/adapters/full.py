"""Full fine-tuning: all parameters of the model are trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from rerank.finetune.components import CalibrationBatches, ParameterKind


@dataclass(frozen=True, kw_only=True)
class Full:
    """Full fine-tuning: every parameter is trained, and the whole model is saved with its configuration."""

    paper: ClassVar[str] = ""
    summary: ClassVar[str] = "Trains all weights of the model"
    shape: ClassVar[ParameterKind] = "full"
    identity: ClassVar[bool] = True
    moves_base: ClassVar[bool] = False
    merges: ClassVar[bool] = False
    saves: ClassVar[Literal["adapter", "model"]] = "model"
    vllm: ClassVar[bool] = False
    needs: ClassVar[str] = ""

    def attach(self, model: Any, calibrate: CalibrationBatches, *, seed: int) -> Any:
        """Return the model itself with gradients enabled for every parameter."""
        return model.requires_grad_(True)

    def save(self, model: Any, folder: Path) -> None:
        """Write the whole model, because all its weights were trained."""
        model.save_pretrained(folder)

    def shapes(self, model: Any) -> list[tuple[int, int]]:
        """Return the shape of every parameter; parameters that are not two-dimensional have the shape (1, size)."""
        return [
            (parameter.shape[0], parameter.shape[1]) if parameter.ndim == 2 else (1, parameter.numel())
            for parameter in model.parameters()  # yields tied parameters once
        ]

    def count_trainable(self, shapes: Sequence[tuple[int, int]]) -> int:
        """Return the number of all parameters."""
        return sum(rows * columns for rows, columns in shapes)
