"""AdamW: every number has a learning rate of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from rerank.finetune.optimizers.base.options import Adam
from rerank.finetune.parts import SHAPES, Shape


@dataclass(frozen=True, kw_only=True)
class Adamw(Adam):
    """torch's AdamW with moments in float32: 2 numbers for each that trains. Fits everything.

    Weights in bfloat16 lose, as under any optimizer here, changes of less than about 1/256 of their size.
    """

    paper: ClassVar[str] = "Loshchilov and Hutter, ICLR 2019, arXiv 1711.05101 (AdamW)"
    summary: ClassVar[str] = "Adam with decoupled weight decay; what all others are measured against"
    fits: ClassVar[frozenset[Shape]] = frozenset(SHAPES)
    reason: ClassVar[str] = ""

    def build(self, model: Any, *, lr: float, weight_decay: float) -> Any:
        """See `rerank.finetune.optimizers.base.Optimizer`."""
        from rerank.finetune.optimizers.base.exact_adamw import ExactAdamW
        from rerank.finetune.optimizers.base.parameter_groups import parameter_groups

        return ExactAdamW(parameter_groups(model, weight_decay), lr=lr, **self.moments)
