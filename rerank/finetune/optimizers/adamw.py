"""The optimizer AdamW: Adam with decoupled weight decay."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from rerank.finetune.components import PARAMETER_KINDS, ParameterKind
from rerank.finetune.optimizers.base.options import AdamOptions


@dataclass(frozen=True, kw_only=True)
class Adamw(AdamOptions):
    """torch's AdamW with float32 moments, two per trainable parameter; it fits every adapter.

    Weights in bfloat16 lose changes smaller than about 1/256 of their size, as under every optimizer here.
    """

    paper: ClassVar[str] = "Loshchilov and Hutter, ICLR 2019, arXiv 1711.05101 (AdamW)"
    summary: ClassVar[str] = "Adam with decoupled weight decay; the baseline of all others"
    fits: ClassVar[frozenset[ParameterKind]] = frozenset(PARAMETER_KINDS)
    reason: ClassVar[str] = ""

    def build(self, model: Any, *, lr: float, weight_decay: float) -> Any:
        """Return AdamW over the trainable parameters of the model."""
        from rerank.finetune.optimizers.base.exact_adamw import ExactAdamW
        from rerank.finetune.optimizers.base.parameter_groups import make_parameter_groups

        return ExactAdamW(make_parameter_groups(model, weight_decay), lr=lr, **self.moments)
