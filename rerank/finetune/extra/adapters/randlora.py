"""The adapter RandLoRA: trainable scales of random low-rank terms whose sum has full rank."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from rerank.finetune.adapters.base.peft_methods import PeftAdapter
from rerank.finetune.adapters.base.targets import (
    LinearTargets,
    require_adapter_fraction,
    require_adapter_option_at_least,
)


@dataclass(frozen=True, kw_only=True)
class Randlora(LinearTargets, PeftAdapter):
    """RandLoRA: the weight becomes W + sum_i B_i L_i A_i G_i; B_i and A_i are random, diagonal L_i and G_i are trained.

    The sum has ceil(min(rows, columns) / r) terms, so that it can have full rank; a smaller r therefore trains more
    parameters. The random matrices are not saved: peft generates them from the seed when it loads the adapter, and
    warns that another version of torch may generate different ones. Implemented with `peft.RandLoraConfig`.

    Attributes:
        r: Rank of each random term.
        alpha: Numerator of the scaling factor alpha / r of the sum; None for 20 r, as peft recommends.
        dropout: Dropout probability of the inputs.
    """

    r: int = 32
    alpha: int | None = None
    dropout: float = 0.0

    paper: ClassVar[str] = "Albert et al., ICLR 2025, arXiv 2502.00987 (RandLoRA)"
    summary: ClassVar[str] = "Trains scales of random low-rank terms whose sum has full rank"

    def __post_init__(self) -> None:
        """Check the options."""
        super().__post_init__()
        require_adapter_option_at_least("r", self.r, 1)
        require_adapter_option_at_least("alpha", 1 if self.alpha is None else self.alpha, 1)
        require_adapter_fraction("dropout", self.dropout)

    def config(self, model: Any, seed: int) -> Any:
        """Return peft's configuration of RandLoRA for the model."""
        from peft import RandLoraConfig

        from rerank.finetune.adapters.base import peft_files

        with peft_files.ignore_projection_warning():
            return RandLoraConfig(
                r=self.r,
                randlora_alpha=20 * self.r if self.alpha is None else self.alpha,
                randlora_dropout=self.dropout,
                target_modules=self.module_names(model),
                projection_prng_key=seed,
                save_projection=False,
                task_type="CAUSAL_LM",
            )

    def count_trainable(self, shapes: Sequence[tuple[int, int]]) -> int:
        """Return the sum of ceil(s / r) (r + s) over the matrices, where s is the smaller side of a matrix."""
        return sum(math.ceil(min(shape) / self.r) * (self.r + min(shape)) for shape in shapes)
