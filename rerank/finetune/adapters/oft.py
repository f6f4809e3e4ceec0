"""The adapter OFT: an orthogonal transformation of the inputs of each matrix."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from rerank.errors import UsageError
from rerank.finetune.adapters.base.peft_methods import PeftAdapter
from rerank.finetune.adapters.base.targets import (
    LinearTargets,
    require_adapter_fraction,
    require_adapter_option_at_least,
)


@dataclass(frozen=True, kw_only=True)
class Oft(LinearTargets, PeftAdapter):
    """OFT: the weight becomes W Q, where Q is orthogonal and block-diagonal; `peft.OFTConfig`.

    Each block of Q is the Cayley transform of a trained skew-symmetric matrix. peft approximates the transform by the
    first terms of a Neumann series, so Q is orthogonal up to a small error. OFT is the closest available method to
    TLoRA, which also multiplies W by a trained matrix.

    Attributes:
        block: Side length of the blocks; it must divide the number of columns of every matrix.
        dropout: Probability that a block is replaced by the identity during training.
    """

    block: int = 32
    dropout: float = 0.0

    paper: ClassVar[str] = "Qiu et al., NeurIPS 2023, arXiv 2306.07280 (OFT)"
    summary: ClassVar[str] = "Rotates the inputs of each matrix block by block"
    differs: ClassVar[str] = "The Cayley transform is a truncated series, as in peft"

    def __post_init__(self) -> None:
        """Check the options."""
        super().__post_init__()
        require_adapter_option_at_least("block", self.block, 2)
        require_adapter_fraction("dropout", self.dropout)

    def config(self, model: Any, seed: int) -> Any:
        """Return peft's configuration of OFT for the model.

        Raises:
            UsageError: The block size does not divide the number of columns of a matrix.
        """
        from peft import OFTConfig

        names = self.module_names(model)
        for name, (_, columns) in zip(names, self.shapes(model), strict=True):
            if columns % self.block:
                raise UsageError(
                    f"block={self.block} does not divide the {columns} columns of {name}",
                    expected="a common divisor of the numbers of columns",
                )
        return OFTConfig(
            r=0,
            oft_block_size=self.block,
            module_dropout=self.dropout,
            target_modules=names,
            task_type="CAUSAL_LM",
        )

    def count_trainable(self, shapes: Sequence[tuple[int, int]]) -> int:
        """Return the sum of columns (block - 1) / 2 over the matrices: the strict upper triangles of all blocks."""
        # A block is the Cayley transform of a skew-symmetric matrix, which has block (block - 1) / 2 free entries.
        return sum(columns // self.block * (self.block * (self.block - 1) // 2) for _, columns in shapes)
