"""The adapter rsLoRA: LoRA with the rank-stabilised scaling factor alpha / sqrt(r)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

from rerank.finetune.adapters.base.peft_methods import LoraFamily


@dataclass(frozen=True, kw_only=True)
class Rslora(LoraFamily):
    """rsLoRA: the weight becomes W + alpha / sqrt(r) B A, so that updates do not shrink as the rank grows.

    Implemented with `peft.LoraConfig`.

    Attributes:
        alpha: Numerator of the scaling factor alpha / sqrt(r). The default gives the factor 4 at r = 16.
    """

    alpha: int = 16

    paper: ClassVar[str] = "Kalajdzievski, 2023, arXiv 2312.03732 (rsLoRA)"
    summary: ClassVar[str] = "LoRA with the scaling factor alpha / sqrt(r), for large ranks"

    def lora_options(self) -> dict[str, Any]:
        """Return the field of `peft.LoraConfig` that enables the rank-stabilised scaling factor."""
        return {"use_rslora": True}

    def alpha_for(self, rank: int) -> float:
        """Return the alpha that gives a matrix of rank ``rank`` the same scaling factor as a matrix of rank ``r``."""
        return self.alpha * math.sqrt(rank / self.r)
