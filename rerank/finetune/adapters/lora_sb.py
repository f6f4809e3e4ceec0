"""LoRA-SB."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from rerank.errors import UsageError
from rerank.finetune.adapters._frozen import FrozenBasis
from rerank.finetune.base import Calibrate

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, kw_only=True)
class LoraSb(FrozenBasis):
    """W + U R V', with U, V and the first R from the first step of full training; R (r x r) trains.

    That step is D = -eta sign(G), G the gradient of the training's own loss; U S V' is its truncated decomposition and
    R begins as S. So the model has moved already when training begins (`identity` is False): by D's best approximation
    of rank r.

    Attributes:
        eta: The size of the first step: the learning rate of full training over its number of warm-up steps.
    """

    r: int = 64
    eta: float = 1e-5

    paper: ClassVar[str] = "Ponkshe et al., 2024, arXiv 2411.19557 (LoRA-SB)"
    summary: ClassVar[str] = "Trains an r x r matrix between directions of the first full gradient step"
    identity: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Check the options."""
        super().__post_init__()
        if self.eta <= 0:
            raise UsageError(f"eta={self.eta}", expected="above 0")

    def guides(self, model: Any, names: Sequence[str], calibrate: Calibrate) -> Mapping[str, torch.Tensor]:
        """The first step of each matrix."""
        from rerank.finetune.adapters._gradients import gradients

        return {name: -self.eta * found.sign() for name, found in gradients(model, names, calibrate).items()}

    def parts(self, matrix: torch.Tensor) -> tuple[torch.nn.Module, torch.nn.Module]:
        """See `FrozenBasis`."""
        import torch

        from rerank.finetune.adapters._frozen_basis import Down, Up

        u, s, v = torch.linalg.svd(matrix, full_matrices=False)
        core = torch.diag(s[: self.r])
        return Down(v[: self.r], core, torch.zeros_like(core)), Up(u[:, : self.r])

    def trainable(self, shapes: Sequence[tuple[int, int]]) -> int:
        """A matrix: r^2."""
        return self.r**2 * len(shapes)
