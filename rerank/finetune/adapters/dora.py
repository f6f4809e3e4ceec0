"""The adapter DoRA: LoRA on the direction of each row, with trainable magnitudes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from rerank.finetune.adapters.base.peft_methods import LoraFamily


@dataclass(frozen=True, kw_only=True)
class Dora(LoraFamily):
    """DoRA: the weight becomes m (W + alpha / r B A) / ||W + alpha / r B A||, with row-wise norms (equation 5).

    The row magnitudes m are trained as well as A and B. Implemented with `peft.LoraConfig`. vLLM does not load DoRA
    adapters: merge the adapter first.
    """

    paper: ClassVar[str] = "Liu et al., ICML 2024, arXiv 2402.09353 (DoRA)"
    summary: ClassVar[str] = "LoRA with the magnitude of each row trained separately from its direction"
    vllm: ClassVar[bool] = False

    def lora_options(self) -> dict[str, Any]:
        """Return the field of `peft.LoraConfig` that enables DoRA."""
        return {"use_dora": True}

    def count_trainable(self, shapes: Sequence[tuple[int, int]]) -> int:
        """Return the number of trainable parameters: r (rows + columns) + rows per matrix."""
        return super().count_trainable(shapes) + sum(rows for rows, _ in shapes)
