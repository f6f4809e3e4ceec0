"""DoRA."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from rerank.finetune.adapters.base.peft_methods import LoraFamily


@dataclass(frozen=True, kw_only=True)
class Dora(LoraFamily):
    """m (W + alpha / r B A) / norm(W + alpha / r B A), norms by row, m trained; `peft.LoraConfig`.

    vLLM does not load it: merge first.
    """

    paper: ClassVar[str] = "Liu et al., ICML 2024, arXiv 2402.09353 (DoRA)"
    summary: ClassVar[str] = "LoRA that trains each output's magnitude apart from its direction"
    vllm: ClassVar[bool] = False

    def options(self) -> dict[str, Any]:
        """See `LoraFamily`."""
        return {"use_dora": True}

    def trainable(self, shapes: Sequence[tuple[int, int]]) -> int:
        """A matrix: r (rows + columns) + rows."""
        return super().trainable(shapes) + sum(rows for rows, _ in shapes)
