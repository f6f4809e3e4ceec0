"""Full training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from rerank.finetune.parts import Calibrate, Shape


@dataclass(frozen=True, kw_only=True)
class Full:
    """Every parameter of the model trains; a whole model is saved, with its configuration."""

    paper: ClassVar[str] = ""
    summary: ClassVar[str] = "Trains all of the model's own weights"
    shape: ClassVar[Shape] = "full"
    identity: ClassVar[bool] = True
    moves_base: ClassVar[bool] = False
    merges: ClassVar[bool] = False
    saves: ClassVar[Literal["adapter", "model"]] = "model"
    vllm: ClassVar[bool] = False
    needs: ClassVar[str] = ""

    def attach(self, model: Any, calibrate: Calibrate, *, seed: int) -> Any:
        """See `Adapter`."""
        return model.requires_grad_(True)

    def save(self, model: Any, folder: Path) -> None:
        """See `Adapter`."""
        model.save_pretrained(folder)

    def shapes(self, model: Any) -> list[tuple[int, int]]:
        """(rows, columns) of every parameter; those with more or fewer sides than two as (1, size)."""
        return [
            (one.shape[0], one.shape[1]) if one.ndim == 2 else (1, one.numel())
            for one in model.parameters()  # tied ones come once
        ]

    def trainable(self, shapes: Sequence[tuple[int, int]]) -> int:
        """All of them."""
        return sum(rows * columns for rows, columns in shapes)
