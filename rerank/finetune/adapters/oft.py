"""OFT."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from rerank.errors import UsageError
from rerank.finetune.adapters.base.peft_methods import PeftMethod
from rerank.finetune.adapters.base.targets import LinearTargets, at_least, share


@dataclass(frozen=True, kw_only=True)
class Oft(LinearTargets, PeftMethod):
    """W Q with Q a block-diagonal rotation of the inputs, by Cayley's map of what trains; `peft.OFTConfig`.

    peft takes the first terms of a series for the map, so that Q is a rotation but for a small error. The nearest to
    be had to TLoRA, which multiplies W by a trained matrix as well.

    Attributes:
        block: Side of the blocks; it must divide every matrix's number of columns.
        dropout: Share of the blocks that are left out in training.
    """

    block: int = 32
    dropout: float = 0.0

    paper: ClassVar[str] = "Qiu et al., NeurIPS 2023, arXiv 2306.07280 (OFT)"
    summary: ClassVar[str] = "Rotates each matrix's inputs in blocks"

    def __post_init__(self) -> None:
        """Check the options."""
        super().__post_init__()
        at_least("block", self.block, 2)
        share("dropout", self.dropout)

    def config(self, model: Any, seed: int) -> Any:
        """See `PeftMethod`.

        Raises:
            UsageError: A matrix's columns do not fall into blocks of this size.
        """
        from peft import OFTConfig

        names = self.names(model)
        for name, (_, columns) in zip(names, self.shapes(model), strict=True):
            if columns % self.block:
                raise UsageError(f"block={self.block} does not divide the {columns} columns of {name}")
        return OFTConfig(
            r=0,
            oft_block_size=self.block,
            module_dropout=self.dropout,
            target_modules=names,
            task_type="CAUSAL_LM",
        )

    def trainable(self, shapes: Sequence[tuple[int, int]]) -> int:
        """A matrix: columns (block - 1) / 2, the upper triangles of its blocks."""
        return sum(columns // self.block * (self.block * (self.block - 1) // 2) for _, columns in shapes)
