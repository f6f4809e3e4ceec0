"""The adapter LoKr: a Kronecker product of two small matrices."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from rerank.finetune.adapters.base.peft_methods import PeftAdapter
from rerank.finetune.adapters.base.targets import LinearTargets, require_adapter_option_at_least


@dataclass(frozen=True, kw_only=True)
class Lokr(LinearTargets, PeftAdapter):
    """LoKr: the weight becomes W + alpha / r (C kron D), a Kronecker product of a small C and a larger D.

    D is a product of two factors of rank r where that saves parameters. Implemented with `peft.LoKrConfig`. The method
    SoKA trains a sum of such products and initialises them from a decomposition of W; LoKr trains a single product and
    does not use W for the initialisation.

    Attributes:
        r: Rank of D. If r is at least half of the longer side of D, D is a full matrix.
        alpha: Numerator of the scaling factor alpha / r; None for alpha = r.
    """

    r: int = 8
    alpha: int | None = None

    paper: ClassVar[str] = "Yeh et al., ICLR 2024, arXiv 2309.14859 (LyCORIS: LoKr)"
    summary: ClassVar[str] = "Adds a Kronecker product to each matrix"

    def __post_init__(self) -> None:
        """Check the options."""
        super().__post_init__()
        require_adapter_option_at_least("r", self.r, 1)
        require_adapter_option_at_least("alpha", 1 if self.alpha is None else self.alpha, 1)

    def config(self, model: Any, seed: int) -> Any:
        """Return peft's configuration of LoKr for the model."""
        from peft import LoKrConfig

        alpha = self.r if self.alpha is None else self.alpha
        return LoKrConfig(r=self.r, alpha=alpha, target_modules=self.module_names(model), task_type="CAUSAL_LM")

    def count_trainable(self, shapes: Sequence[tuple[int, int]]) -> int:
        """Return the number of entries of C and D over all matrices; a low-rank D counts as its two factors."""
        return sum(self._count(rows, columns) for rows, columns in shapes)

    def _count(self, rows: int, columns: int) -> int:
        # Each side of W is split into two factors: C has the smaller ones as its shape, D the larger ones.
        (c_rows, d_rows), (c_columns, d_columns) = _split_kronecker_factors(rows), _split_kronecker_factors(columns)
        is_full = self.r >= max(d_rows, d_columns) / 2
        d_size = d_rows * d_columns if is_full else self.r * (d_rows + d_columns)
        return c_rows * c_columns + d_size


def _split_kronecker_factors(size: int) -> tuple[int, int]:
    """Return the two factors of a number that are closest to each other, the smaller first."""
    smaller = next(divisor for divisor in range(math.isqrt(size), 0, -1) if size % divisor == 0)
    return smaller, size // smaller
