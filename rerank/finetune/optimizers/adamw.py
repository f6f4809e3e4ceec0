"""The optimizer AdamW: Adam with decoupled weight decay."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from rerank.finetune.components import PARAMETER_KINDS, ParameterKind
from rerank.finetune.optimizers.base.options import AdamOptions


@dataclass(frozen=True, kw_only=True)
class Adamw(AdamOptions):
    """torch's AdamW with two float32 moments per trainable parameter; it supports every adapter.

    If weights are in bfloat16, updates smaller than about 1/256 of a weight are lost to rounding. This holds for every
    optimizer of this package.
    """

    paper: ClassVar[str] = "Loshchilov and Hutter, ICLR 2019, arXiv 1711.05101 (AdamW)"
    summary: ClassVar[str] = "Adam with decoupled weight decay; the baseline of all others"
    fits: ClassVar[frozenset[ParameterKind]] = frozenset(PARAMETER_KINDS)
    reason: ClassVar[str] = ""
    elementwise: ClassVar[bool] = True

    def build(self, model: Any, *, lr: float, weight_decay: float) -> Any:
        """Return AdamW over the trainable parameters of the model."""
        from rerank.finetune.optimizers.base.exact_adamw import ExactAdamW
        from rerank.finetune.optimizers.base.parameter_groups import make_parameter_groups

        return ExactAdamW(make_parameter_groups(model, weight_decay), lr=lr, **self.moments)
