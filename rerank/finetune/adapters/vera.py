"""The adapter VeRA: trainable scaling vectors around random factors that all matrices share."""

from __future__ import annotations

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
class Vera(LinearTargets, PeftAdapter):
    """VeRA: the weight becomes W + diag(b) B diag(d) A, with random B and A that all matrices share; `peft.VeraConfig`.

    Only b and d are trained. The random matrices are not saved: peft generates them from the seed when it loads the
    adapter, and warns that another version of torch may generate different ones.

    Attributes:
        r: Rank of the shared random matrices.
        d: Initial value of the vector d; b starts at 0.
        dropout: Dropout probability of the inputs to A.
    """

    r: int = 256
    d: float = 0.1
    dropout: float = 0.0

    paper: ClassVar[str] = "Kopiczko et al., ICLR 2024, arXiv 2310.11454 (VeRA)"
    summary: ClassVar[str] = "Trains two vectors per matrix around shared random factors"

    def __post_init__(self) -> None:
        """Check the options."""
        super().__post_init__()
        require_adapter_option_at_least("r", self.r, 1)
        require_adapter_fraction("dropout", self.dropout)

    def config(self, model: Any, seed: int) -> Any:
        """Return peft's configuration of VeRA for the model."""
        from peft import VeraConfig

        from rerank.finetune.adapters.base import peft_files

        with peft_files.ignore_projection_warning():
            return VeraConfig(
                r=self.r,
                d_initial=self.d,
                vera_dropout=self.dropout,
                target_modules=self.module_names(model),
                projection_prng_key=seed,
                save_projection=False,
                task_type="CAUSAL_LM",
            )

    def count_trainable(self, shapes: Sequence[tuple[int, int]]) -> int:
        """Return the sum of rows + r over the matrices."""
        return sum(rows + self.r for rows, _ in shapes)
