"""The optimizer SaRA: training of the weights with the smallest absolute values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from rerank.finetune.components import ParameterKind
from rerank.finetune.optimizers.base.options import (
    FULL,
    AdamOptions,
    count_optimizer_share_entries,
    require_optimizer_option,
)


@dataclass(frozen=True, kw_only=True)
class Sara(AdamOptions):
    """AdamW on the weights with the smallest absolute values; all other weights stay bit-identical.

    SaRA keeps 3 numbers per trained entry: two moments and the index of the entry. The paper has one threshold for all
    weights; here the same fraction of each parameter is trained, so that the memory is known in advance. The paper's
    nuclear-norm penalty and sparse backpropagation are not implemented: gradients are dense.

    This is our own implementation, because the one in pytorch_optimizer keeps a mask over all entries and casts the
    state that it loads to the data type of the weights.

    Attributes:
        share: Fraction of the entries of every parameter that are trained.
        refine: Number of steps after which trained entries are frozen if their absolute value is no longer below that
            of the smallest untrained entry; 0 for never. The paper makes this progressive adjustment halfway through
            training.
    """

    paper: ClassVar[str] = "Hu et al., ICLR 2025, arXiv 2409.06633 (SaRA)"
    summary: ClassVar[str] = "AdamW on the fraction of weights with the smallest absolute values"
    differs: ClassVar[str] = (
        "One fraction per parameter instead of a threshold for all; no nuclear-norm penalty, dense gradients"
    )
    fits: ClassVar[frozenset[ParameterKind]] = FULL
    reason: ClassVar[str] = "It trains the smallest of the model's own weights, which adapters freeze"

    share: float = 0.1
    refine: int = 0

    def __post_init__(self) -> None:
        """Check that ``share`` and ``refine`` are in range, and check the options of Adam."""
        super().__post_init__()
        require_optimizer_option(0 < self.share <= 1, "share", self.share, "a number above 0, at most 1")
        require_optimizer_option(self.refine >= 0, "refine", self.refine, "an integer of at least 0")

    def count_state(self, shapes: Sequence[tuple[int, int]]) -> int:
        """Return the number of state values: two moments and an index per trained entry, before ``refine``."""
        return sum(3 * count_optimizer_share_entries(rows * columns, self.share) for rows, columns in shapes)

    def build(self, model: Any, *, lr: float, weight_decay: float) -> Any:
        """Return AdamW on the smallest entries of every trainable parameter."""
        from rerank.finetune.extra.optimizers.sara.sparse_adamw import SparseAdamW
        from rerank.finetune.optimizers.base.parameter_groups import make_parameter_groups

        groups = make_parameter_groups(model, weight_decay)
        return SparseAdamW(groups, lr=lr, share=self.share, refine=self.refine, **self.moments)
