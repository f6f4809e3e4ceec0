"""RandLoRA."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from rerank.finetune.adapters.base.peft_methods import PeftMethod
from rerank.finetune.adapters.base.targets import LinearTargets, at_least, share


@dataclass(frozen=True, kw_only=True)
class Randlora(LinearTargets, PeftMethod):
    """W + sum over i of B_i L_i A_i G_i: random B_i and A_i, diagonal L_i and G_i trained; `peft.RandLoraConfig`.

    There are ceil(min(rows, columns) / r) terms, so the sum can be of full rank, and a smaller r trains more. The
    random matrices are not saved: peft draws them again from the seed on loading and warns that another version of
    torch may draw others.

    Attributes:
        r: The rank of each random term.
        alpha: The sum is multiplied by alpha / r; None for 20 r, as peft recommends.
        dropout: Share of the inputs that is dropped in training.
    """

    r: int = 32
    alpha: int | None = None
    dropout: float = 0.0

    paper: ClassVar[str] = "Albert et al., ICLR 2025, arXiv 2502.00987 (RandLoRA)"
    summary: ClassVar[str] = "Trains scales of random low-rank terms whose sum has full rank"

    def __post_init__(self) -> None:
        """Check the options."""
        super().__post_init__()
        at_least("r", self.r, 1)
        at_least("alpha", 1 if self.alpha is None else self.alpha, 1)
        share("dropout", self.dropout)

    def config(self, model: Any, seed: int) -> Any:
        """See `PeftMethod`."""
        from peft import RandLoraConfig

        from rerank.finetune.adapters.base import peft_files

        with peft_files.bases_drawn_again():
            return RandLoraConfig(
                r=self.r,
                randlora_alpha=20 * self.r if self.alpha is None else self.alpha,
                randlora_dropout=self.dropout,
                target_modules=self.names(model),
                projection_prng_key=seed,
                save_projection=False,
                task_type="CAUSAL_LM",
            )

    def trainable(self, shapes: Sequence[tuple[int, int]]) -> int:
        """A matrix: ceil(s / r) (r + s), s its smaller side."""
        return sum(math.ceil(min(shape) / self.r) * (self.r + min(shape)) for shape in shapes)
