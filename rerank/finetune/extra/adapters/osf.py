"""The adapter OSF (Sculpting Subspaces): full training with gradients orthogonal to the large singular directions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from rerank.errors import UsageError
from rerank.finetune.adapters.base.peft_methods import PeftAdapter
from rerank.finetune.adapters.base.targets import LinearTargets
from rerank.finetune.components import ParameterKind


@dataclass(frozen=True, kw_only=True)
class Osf(LinearTargets, PeftAdapter):
    """OSF: only the small singular directions of W are trained, with gradients orthogonal to the large directions.

    Implemented with `peft.OSFConfig`. OSF is used to train on a second collection without forgetting the first. It
    costs as much as full training: the small directions of a matrix, with their gradients and moments, are about as
    large as the matrix.

    Only the gradients are orthogonal. The updates of an optimizer that scales each entry, such as AdamW, are not;
    the updates of plain gradient descent are.

    Attributes:
        keep: Fraction of the singular directions of each matrix that stay fixed: the large ones.
    """

    keep: float = 0.5

    paper: ClassVar[str] = "Nayak et al., 2025, arXiv 2504.07097 (Sculpting Subspaces)"
    summary: ClassVar[str] = "Trains the small singular directions of each matrix and keeps the large ones"
    shape: ClassVar[ParameterKind] = "full"

    def __post_init__(self) -> None:
        """Check the options."""
        super().__post_init__()
        if not 0 < self.keep < 1:
            raise UsageError(f"Option keep is {self.keep}", expected="above 0 and below 1")

    def config(self, model: Any, seed: int) -> Any:
        """Return peft's configuration of OSF for the model.

        Raises:
            UsageError: A matrix is so small that none of its directions would be kept.
        """
        from peft import OSFConfig

        names = self.module_names(model)
        for name, shape in zip(names, self.shapes(model), strict=True):
            if not int(min(shape) * self.keep):
                raise UsageError(
                    f"keep={self.keep} keeps none of the {min(shape)} singular directions of {name}",
                    expected="at least one direction of every matrix",
                )
        return OSFConfig(effective_rank=self.keep, target_modules=names, task_type="CAUSAL_LM")

    def count_trainable(self, shapes: Sequence[tuple[int, int]]) -> int:
        """Return the sum of (s - k) (rows + columns + 1) over the matrices; k of s singular directions stay fixed."""
        return sum((min(shape) - int(min(shape) * self.keep)) * (sum(shape) + 1) for shape in shapes)
