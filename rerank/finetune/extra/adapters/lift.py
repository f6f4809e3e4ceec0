"""The adapter LIFT: sparse training of the principal weights of each matrix."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from rerank.errors import UsageError
from rerank.finetune.adapters.base.peft_methods import PeftAdapter
from rerank.finetune.adapters.base.targets import LinearTargets, require_adapter_option_at_least

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, kw_only=True)
class Lift(LinearTargets, PeftAdapter):
    """LIFT: trains only those weights of each matrix that are largest in its low-rank approximation.

    The approximation keeps `filter_rank` singular directions, and r (rows + columns) weights per matrix are trained.
    They are saved as a SHiRA adapter (Bhardwaj et al., NeurIPS 2024, arXiv 2406.13175; `peft.ShiraConfig`), which can
    be loaded without this package.

    The paper selects the weights again every few hundred steps. Here they are selected once: after a second selection,
    the difference from the base model would have more entries than a SHiRA adapter can store, and only a whole model
    could be saved.

    Attributes:
        r: Rank of the LoRA that would have the same number of trained weights.
        filter_rank: Number of singular directions of the approximation; matrices with fewer directions use all of them.
    """

    r: int = 128
    filter_rank: int = 64

    paper: ClassVar[str] = "Liu et al., ICML 2025, arXiv 2506.00772 (LIFT)"
    summary: ClassVar[str] = "Trains the largest weights of each matrix's low-rank approximation"
    differs: ClassVar[str] = "Weights are selected once, not again every few hundred steps"

    def __post_init__(self) -> None:
        """Check that ``r`` and ``filter_rank`` are at least 1."""
        super().__post_init__()
        require_adapter_option_at_least("r", self.r, 1)
        require_adapter_option_at_least("filter_rank", self.filter_rank, 1)

    def peft_config(self, model: Any, seed: int) -> Any:
        """Return peft's configuration of SHiRA with the mask function of LIFT."""
        import torch
        from peft import ShiraConfig

        checks: Any = torch.sparse.check_sparse_tensor_invariants
        if not checks.is_enabled():
            checks.disable()  # already off, but torch warns about peft's sparse tensors until this is set explicitly
        names = self.module_names(model)
        for name, (rows, columns) in zip(names, self.shapes(model), strict=True):
            if self.r * (rows + columns) > rows * columns:
                raise UsageError(
                    f"r={self.r} selects {self.r * (rows + columns)} of the {rows * columns} weights of {name}",
                    remedy="Lower r, or exclude the module from targets",
                )
        # The saved mask type must be one that peft knows, or peft would warn when it loads the adapter. The type has no
        # effect on loading, since the indices are read from the file.
        config: Any = ShiraConfig(r=self.r, mask_type="random", target_modules=names, task_type="CAUSAL_LM")
        config.mask_fn = self.mask
        return config

    def mask(self, layer: torch.nn.Linear, r: int, **_: Any) -> torch.Tensor:
        """Return a mask of shape (rows, columns) in the weight's data type: 1 for trained weights, 0 for all others.

        Args:
            layer: The linear layer.
            r: Rank; the mask selects r (rows + columns) weights.
        """
        import torch

        weight = layer.weight.detach()
        u, s, v = torch.linalg.svd(weight.float(), full_matrices=False)
        # W_k = U_k S_k V_k', the best rank-k approximation of W, shape (rows, columns).
        k = min(self.filter_rank, len(s))
        approximation = (u[:, :k] * s[:k]) @ v[:k]
        selected = approximation.abs().flatten().topk(r * sum(weight.shape)).indices
        mask = weight.new_zeros(weight.numel())
        mask[selected] = 1
        return mask.view(weight.shape)

    def count_trainable(self, shapes: Sequence[tuple[int, int]]) -> int:
        """Return the number of trained weights: r (rows + columns) per matrix."""
        return sum(self.r * (rows + columns) for rows, columns in shapes)
