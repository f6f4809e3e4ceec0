"""The adapter LoRA: a trainable product of two low-rank factors per matrix."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from rerank.finetune.adapters.base.peft_methods import LoraFamily


@dataclass(frozen=True, kw_only=True)
class Lora(LoraFamily):
    """W + alpha / r B A (equation 3), where B starts at 0 and A is random; `peft.LoraConfig`.

    The paper draws A from a normal distribution, peft from a uniform one.
    """

    paper: ClassVar[str] = "Hu et al., ICLR 2022, arXiv 2106.09685 (LoRA)"
    summary: ClassVar[str] = "Adds a low-rank product to each matrix"
