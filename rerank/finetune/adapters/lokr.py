"""LoKr."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from rerank.finetune.adapters.base.peft_methods import PeftMethod
from rerank.finetune.adapters.base.targets import LinearTargets, at_least


@dataclass(frozen=True, kw_only=True)
class Lokr(LinearTargets, PeftMethod):
    """W + alpha / r (C kron D): a Kronecker product, C small and D of low rank where that is less; `peft.LoKrConfig`.

    One term of the sum that SoKA trains, and not begun from W's own decomposition.

    Attributes:
        r: The rank of D; where it is half of D's longer side or more, D is one full matrix.
        alpha: The product is multiplied by alpha / r; None for r.
    """

    r: int = 8
    alpha: int | None = None

    paper: ClassVar[str] = "Yeh et al., ICLR 2024, arXiv 2309.14859 (LyCORIS: LoKr)"
    summary: ClassVar[str] = "Adds a Kronecker product to each matrix"

    def __post_init__(self) -> None:
        """Check the options."""
        super().__post_init__()
        at_least("r", self.r, 1)
        at_least("alpha", 1 if self.alpha is None else self.alpha, 1)

    def config(self, model: Any, seed: int) -> Any:
        """See `PeftMethod`."""
        from peft import LoKrConfig

        alpha = self.r if self.alpha is None else self.alpha
        return LoKrConfig(r=self.r, alpha=alpha, target_modules=self.names(model), task_type="CAUSAL_LM")

    def trainable(self, shapes: Sequence[tuple[int, int]]) -> int:
        """A matrix: C's entries, and D's or r times the sum of D's sides."""
        return sum(self._of(rows, columns) for rows, columns in shapes)

    def _of(self, rows: int, columns: int) -> int:
        (few_rows, many_rows), (few_columns, many_columns) = _split(rows), _split(columns)
        whole = self.r >= max(many_rows, many_columns) / 2
        large = many_rows * many_columns if whole else self.r * (many_rows + many_columns)
        return few_rows * few_columns + large


def _split(size: int) -> tuple[int, int]:
    """The two factors of a number that are nearest to each other, the smaller first."""
    few = next(one for one in range(math.isqrt(size), 0, -1) if size % one == 0)
    return few, size // few
