"""LoRA."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from rerank.finetune.adapters.base.peft_methods import LoraFamily


@dataclass(frozen=True, kw_only=True)
class Lora(LoraFamily):
    """W + alpha / r B A, with B = 0 and A drawn uniformly at the start; `peft.LoraConfig`."""

    paper: ClassVar[str] = "Hu et al., ICLR 2022, arXiv 2106.09685 (LoRA)"
    summary: ClassVar[str] = "Adds a product of two thin factors to each matrix"
