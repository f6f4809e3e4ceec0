"""The adapter LoRA: a trainable product of two low-rank factors per matrix."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from rerank.finetune.adapters.base.peft_methods import LoraFamily


@dataclass(frozen=True, kw_only=True)
class Lora(LoraFamily):
    """LoRA: the weight becomes W + alpha / r B A (equation 3), with B = 0 and a random A at the start.

    Implemented with `peft.LoraConfig`, which draws A from a uniform distribution; the paper uses a normal distribution.
    """

    paper: ClassVar[str] = "Hu et al., ICLR 2022, arXiv 2106.09685 (LoRA)"
    summary: ClassVar[str] = "Adds a low-rank product to each matrix"
