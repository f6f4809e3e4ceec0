"""OSF, or sculpting subspaces."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from rerank.errors import UsageError
from rerank.finetune.adapters.base.peft_methods import PeftMethod
from rerank.finetune.adapters.base.targets import LinearTargets
from rerank.finetune.parts import Shape


@dataclass(frozen=True, kw_only=True)
class Osf(LinearTargets, PeftMethod):
    """Trains the smaller singular directions of W = U S V', with gradients orthogonal to the larger; `peft.OSFConfig`.

    For training on a second collection without losing a first. It is full training in what it costs: of a matrix, the
    smaller directions and their gradients and moments are about as large as the matrix.

    Orthogonal are the gradients. An optimizer that works entry by entry, such as AdamW, does not keep its steps so;
    plain gradient descent does.

    Attributes:
        keep: Share of each matrix's singular directions that stays as it is.
    """

    keep: float = 0.5

    paper: ClassVar[str] = "Nayak et al., 2025, arXiv 2504.07097 (Sculpting Subspaces)"
    summary: ClassVar[str] = "Trains small singular directions and keeps the large ones"
    shape: ClassVar[Shape] = "full"

    def __post_init__(self) -> None:
        """Check the options."""
        super().__post_init__()
        if not 0 < self.keep < 1:
            raise UsageError(f"keep={self.keep}", expected="above 0 and below 1")

    def config(self, model: Any, seed: int) -> Any:
        """See `PeftMethod`.

        Raises:
            UsageError: A matrix is so small that nothing of it would be kept.
        """
        from peft import OSFConfig

        names = self.names(model)
        for name, shape in zip(names, self.shapes(model), strict=True):
            if not int(min(shape) * self.keep):
                raise UsageError(f"keep={self.keep} keeps none of the {min(shape)} singular directions of {name}")
        return OSFConfig(effective_rank=self.keep, target_modules=names, task_type="CAUSAL_LM")

    def trainable(self, shapes: Sequence[tuple[int, int]]) -> int:
        """A matrix, of whose s singular directions k are kept: (s - k) (rows + columns + 1)."""
        return sum((min(shape) - int(min(shape) * self.keep)) * (sum(shape) + 1) for shape in shapes)
