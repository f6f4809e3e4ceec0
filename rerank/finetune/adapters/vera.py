"""VeRA."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from rerank.finetune.adapters.base.peft_methods import PeftMethod
from rerank.finetune.adapters.base.targets import LinearTargets, at_least, share


@dataclass(frozen=True, kw_only=True)
class Vera(LinearTargets, PeftMethod):
    """W + diag(b) B diag(d) A with random B and A that all matrices share; b and d train; `peft.VeraConfig`.

    The random matrices are not saved: peft draws them again from the seed on loading and warns that another version of
    torch may draw others.

    Attributes:
        r: The rank of the shared random matrices.
        d: What the vector d begins with; b begins with 0.
        dropout: Share of the inputs to A that is dropped in training.
    """

    r: int = 256
    d: float = 0.1
    dropout: float = 0.0

    paper: ClassVar[str] = "Kopiczko et al., ICLR 2024, arXiv 2310.11454 (VeRA)"
    summary: ClassVar[str] = "Trains two vectors a matrix around shared random factors"

    def __post_init__(self) -> None:
        """Check the options."""
        super().__post_init__()
        at_least("r", self.r, 1)
        share("dropout", self.dropout)

    def config(self, model: Any, seed: int) -> Any:
        """See `PeftMethod`."""
        from peft import VeraConfig

        from rerank.finetune.adapters.base import peft_files

        with peft_files.bases_drawn_again():
            return VeraConfig(
                r=self.r,
                d_initial=self.d,
                vera_dropout=self.dropout,
                target_modules=self.names(model),
                projection_prng_key=seed,
                save_projection=False,
                task_type="CAUSAL_LM",
            )

    def trainable(self, shapes: Sequence[tuple[int, int]]) -> int:
        """A matrix: rows + r."""
        return sum(rows + self.r for rows, _ in shapes)
