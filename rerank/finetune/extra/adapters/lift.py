"""LIFT."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from rerank.errors import UsageError
from rerank.finetune.adapters.base.peft_methods import PeftMethod
from rerank.finetune.adapters.base.targets import LinearTargets, at_least

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, kw_only=True)
class Lift(LinearTargets, PeftMethod):
    """Trains the r (rows + columns) weights of a matrix that are largest in its low-rank approximation.

    The approximation keeps `filter_rank` singular directions. The weights are an adapter of SHiRA (Bhardwaj et al.,
    NeurIPS 2024, arXiv 2406.13175; `peft.ShiraConfig`), which loads without this package.

    The paper chooses the weights anew every few hundred steps. Here they are chosen once: after a second choice the
    difference to the base model has more entries than an adapter of SHiRA holds, and could be saved as a whole model
    only.

    Attributes:
        r: As many numbers train as in LoRA of this rank.
        filter_rank: How many singular directions the approximation keeps; all of a smaller matrix.
    """

    r: int = 128
    filter_rank: int = 64

    paper: ClassVar[str] = "Liu et al., ICML 2025, arXiv 2506.00772 (LIFT)"
    summary: ClassVar[str] = "Trains the weights that matter most after rank reduction"

    def __post_init__(self) -> None:
        """Check the options."""
        super().__post_init__()
        at_least("r", self.r, 1)
        at_least("filter_rank", self.filter_rank, 1)

    def config(self, model: Any, seed: int) -> Any:
        """See `PeftMethod`.

        Raises:
            UsageError: A matrix has fewer weights than are to train.
        """
        import torch
        from peft import ShiraConfig

        checks: Any = torch.sparse.check_sparse_tensor_invariants
        if not checks.is_enabled():
            checks.disable()  # as they are; but torch warns of sparse tensors, which peft makes, until it is told so
        names = self.names(model)
        for name, (rows, columns) in zip(names, self.shapes(model), strict=True):
            if self.r * (rows + columns) > rows * columns:
                raise UsageError(
                    f"r={self.r} asks for {self.r * (rows + columns)} weights of {name}, which has {rows * columns}",
                    remedy="Lower r, or leave the module out of targets",
                )
        # The type that is saved: one that peft does not know would make it warn on loading, where the places are read
        # from the file anyway.
        config: Any = ShiraConfig(r=self.r, mask_type="random", target_modules=names, task_type="CAUSAL_LM")
        config.mask_fn = self.mask
        return config

    def mask(self, layer: torch.nn.Linear, r: int, **_: Any) -> torch.Tensor:
        """(rows, columns) 1 where a weight trains and 0 elsewhere, in the weight's number type.

        Args:
            layer: The linear layer.
            r: r (rows + columns) weights are chosen.
        """
        import torch

        weight = layer.weight.detach()
        u, s, v = torch.linalg.svd(weight.float(), full_matrices=False)
        k = min(self.filter_rank, len(s))
        approximation = (u[:, :k] * s[:k]) @ v[:k]
        chosen = approximation.abs().flatten().topk(r * sum(weight.shape)).indices
        mask = weight.new_zeros(weight.numel())
        mask[chosen] = 1
        return mask.view(weight.shape)

    def trainable(self, shapes: Sequence[tuple[int, int]]) -> int:
        """A matrix: r (rows + columns)."""
        return sum(self.r * (rows + columns) for rows, columns in shapes)
