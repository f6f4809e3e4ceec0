"""Rank-stabilised LoRA."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

from rerank.finetune.adapters.base.peft_methods import LoraFamily


@dataclass(frozen=True, kw_only=True)
class Rslora(LoraFamily):
    """W + alpha / sqrt(r) B A: the size of updates does not fall as the rank grows; `peft.LoraConfig`.

    Attributes:
        alpha: What the product is multiplied by, times sqrt(r). The default gives r = 16 the factor 4.
    """

    alpha: int = 16

    paper: ClassVar[str] = "Kalajdzievski, 2023, arXiv 2312.03732 (rsLoRA)"
    summary: ClassVar[str] = "LoRA with the factor alpha / sqrt(r), for large ranks"

    def options(self) -> dict[str, Any]:
        """See `LoraFamily`."""
        return {"use_rslora": True}

    def alpha_of(self, rank: int) -> float:
        """See `LoraFamily`."""
        return self.alpha * math.sqrt(rank / self.r)
