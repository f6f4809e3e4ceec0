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
    """W + alpha / r (C kron D), with a small C and a D of low rank where that saves parameters; `peft.LoKrConfig`.

    This is one term of the sum that SoKA trains, without the initialisation from the decomposition of W.

    Attributes:
        r: Rank of D; from half of the longer side of D upwards, D is a full matrix.
        alpha: Numerator of the scaling factor alpha / r; None for r.
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
        """Return the sum of the entries of C and D, or of C and the two factors of D, over the matrices."""
        return sum(self._count(rows, columns) for rows, columns in shapes)

    def _count(self, rows: int, columns: int) -> int:
        # C has the smaller factors of both sides as its shape, D the larger ones.
        (c_rows, d_rows), (c_columns, d_columns) = _split_kronecker_factors(rows), _split_kronecker_factors(columns)
        is_full = self.r >= max(d_rows, d_columns) / 2
        d_size = d_rows * d_columns if is_full else self.r * (d_rows + d_columns)
        return c_rows * c_columns + d_size


def _split_kronecker_factors(size: int) -> tuple[int, int]:
    """Return the two factors of a number that are closest to each other, the smaller first."""
    smaller = next(divisor for divisor in range(math.isqrt(size), 0, -1) if size % divisor == 0)
    return smaller, size // smaller
