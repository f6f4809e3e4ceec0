"""SaRA: train the weights that matter least."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from rerank.finetune.optimizers.base.options import FULL, Adam, chosen, require
from rerank.finetune.parts import Shape


@dataclass(frozen=True, kw_only=True)
class Sara(Adam):
    """AdamW on the entries smallest in absolute value; all others stay as they are to the bit.

    Keeps 3 numbers of each of them: two moments and its place. The paper has one threshold for all weights; here each
    parameter gives the same share of its own, so that the memory is known beforehand. The paper's penalty on the
    nuclear norm and its sparse backpropagation are not here: gradients are whole.

    Our own, since pytorch_optimizer's keeps a mask of every entry, and what it loads it casts to the weights' type.

    Attributes:
        share: Which share of every parameter's entries moves.
        refine: After that many steps those entries stop that have grown past the smallest of those that never moved,
            which is the paper's progressive adjustment, halfway through a training; 0 for never.
    """

    paper: ClassVar[str] = "Hu et al., ICLR 2025, arXiv 2409.06633 (SaRA)"
    summary: ClassVar[str] = "AdamW on the share of weights that are nearest to 0"
    fits: ClassVar[frozenset[Shape]] = FULL
    reason: ClassVar[str] = "It trains the least of a model's own weights, and an adapter has none to spare"

    share: float = 0.1
    refine: int = 0

    def __post_init__(self) -> None:
        """Refuse what is no share."""
        super().__post_init__()
        require(0 < self.share <= 1, "share", self.share, "a number above 0, at most 1")
        require(self.refine >= 0, "refine", self.refine, "a whole number from 0 up")

    def state(self, shapes: Sequence[tuple[int, int]]) -> int:
        """Two moments and a place of every entry that moves; fewer once ``refine`` has stopped some."""
        return sum(3 * chosen(rows * columns, self.share) for rows, columns in shapes)

    def build(self, model: Any, *, lr: float, weight_decay: float) -> Any:
        """See `rerank.finetune.optimizers.base.Optimizer`."""
        from rerank.finetune.extra.optimizers.sara.sparse_adamw import SparseAdamW
        from rerank.finetune.optimizers.base.parameter_groups import parameter_groups

        groups = parameter_groups(model, weight_decay)
        return SparseAdamW(groups, lr=lr, share=self.share, refine=self.refine, **self.moments)
