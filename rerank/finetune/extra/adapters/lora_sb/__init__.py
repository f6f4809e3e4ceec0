"""The adapter LoRA-SB: a small trained matrix between singular vectors of the first step of full fine-tuning."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from rerank.errors import MissingResourceError, UsageError
from rerank.finetune.adapters.base.targets import require_adapter_option_at_least
from rerank.finetune.components import CalibrationBatches
from rerank.finetune.extra.adapters.base.frozen_basis import FactorBuilder, FrozenBasis
from rerank.models.adapters import read_model_adapter_settings

if TYPE_CHECKING:
    import torch

    from rerank.finetune.recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class LoraSb(FrozenBasis):
    """LoRA-SB: the weight becomes W + U R V'; U, V and the initial R come from the first step of full fine-tuning.

    Only R of shape (r, r) is trained. The first step would be D = -eta sign(G), where G is the gradient of the training
    loss. U S V' is the truncated SVD of D, and R starts as S. The weights have therefore already changed by the best
    rank-r approximation of D when training begins (`identity` is False).

    With a ``basis``, no gradient is computed: U, V and the initial R are taken from another trained LoRA-SB adapter.
    Adapters that were trained from the same basis on shards of the data have bit-identical U, so that averaging their
    cores is exact (Fed-SB, Singhal et al., arXiv 2502.15436). The average can be the basis of the next round.

    Attributes:
        eta: Size of the first step; None for the learning rate of the recipe divided by its number of warm-up steps, as
            in the authors' code.
        samples: Number of training lists over which the gradient is averaged; if there are fewer lists, all are used.
            The default, 50, is that of the authors' training on arithmetic.
        basis: Folder of a LoRA-SB adapter with the same base model, targets and r; if empty, U, V and the initial R are
            computed from the gradient.
    """

    r: int = 64
    eta: float | None = None
    samples: int = 50
    basis: str = ""

    paper: ClassVar[str] = "Ponkshe et al., 2024, arXiv 2411.19557 (LoRA-SB)"
    summary: ClassVar[str] = "Trains an r x r matrix between singular vectors of the first full gradient step"
    identity: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Check that ``eta`` and ``samples`` are positive, and check the options of the base class."""
        super().__post_init__()
        if self.eta is not None and self.eta <= 0:
            raise UsageError(f"Option eta is {self.eta}", expected="above 0")
        require_adapter_option_at_least("samples", self.samples, 1)

    def check_recipe(self, recipe: Recipe) -> None:
        """Check that ``basis`` is the folder of an adapter that was trained on the recipe's base model."""
        folder = Path(self.basis)
        if not self.basis:
            return
        if not (folder / "adapter_config.json").is_file():
            raise MissingResourceError(
                f"basis = {self.basis!r} contains no adapter",
                expected="the folder of a LoRA-SB adapter, or of an average of such adapters",
            )
        trained = read_model_adapter_settings(folder)
        if trained and trained.model != recipe.model:
            raise UsageError(
                f"basis = {self.basis!r} was trained on {trained.model!r}, but the recipe's model is {recipe.model!r}",
                expected="the same base model, under the same name",
            )

    def factor_builder(self, model: Any, names: Sequence[str], calibrate: CalibrationBatches) -> FactorBuilder:
        """Return a function that builds a matrix's factors, from the first full fine-tuning step or from ``basis``."""
        if self.basis:
            from rerank.finetune.extra.adapters.lora_sb.stored_basis import factor_modules_between, read_lora_basis

            basis = read_lora_basis(Path(self.basis), dict.fromkeys(names, self.r))
            return lambda name, weight: factor_modules_between(*(factor.to(weight.device) for factor in basis[name]))
        from rerank.finetune.extra.adapters.base.gradients import compute_mean_loss_gradients

        gradients = compute_mean_loss_gradients(model, names, calibrate, lists=self.samples)
        eta = calibrate.first_lr if self.eta is None else self.eta
        # The first step of a sign-based optimizer such as Adam: D = -eta sign(G).
        return lambda name, weight: self.factor_modules(-eta * gradients[name].sign())

    def factor_modules(self, matrix: torch.Tensor) -> tuple[torch.nn.Module, torch.nn.Module]:
        """Return modules for R V' (trainable R = S) and for the frozen U, where U S V' is the SVD of the first step."""
        import torch

        from rerank.finetune.extra.adapters.base.frozen_basis_layers import DownProjection, UpProjection

        u, s, v = torch.linalg.svd(matrix, full_matrices=False)
        core = torch.diag(s[: self.r])
        return DownProjection(v[: self.r], core, torch.zeros_like(core)), UpProjection(u[:, : self.r])

    def count_trainable(self, shapes: Sequence[tuple[int, int]]) -> int:
        """Return the number of trainable parameters: r^2 per matrix."""
        return self.r**2 * len(shapes)
