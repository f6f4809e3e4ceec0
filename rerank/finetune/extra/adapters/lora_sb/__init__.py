"""LoRA-SB."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from rerank.errors import MissingResourceError, UsageError
from rerank.finetune.adapters.base.frozen_basis import FrozenBasis, Maker
from rerank.finetune.parts import Calibrate
from rerank.models.trained import read_trained

if TYPE_CHECKING:
    import torch

    from rerank.finetune.recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class LoraSb(FrozenBasis):
    """W + U R V', with U, V and the first R from the first step of full training; R (r x r) trains.

    That step is D = -eta sign(G), G the gradient of the training's own loss; U S V' is its truncated decomposition and
    R begins as S. So the model has moved already when training begins (`identity` is False): by D's best approximation
    of rank r.

    With a ``basis`` nothing is looked at: directions and R begin as another LoRA-SB adapter ended. Adapters that were
    trained from one basis, on shards of the data, share U to the bit, and so the mean of their cores is exact
    (Fed-SB, Singhal et al., arXiv 2502.15436); that mean can be the basis of the next round.

    Attributes:
        eta: The size of the first step: the learning rate of full training over its number of warm-up steps.
        basis: Folder of a LoRA-SB adapter of the same base model, targets and r; empty to find directions anew.
    """

    r: int = 64
    eta: float = 1e-5
    basis: str = ""

    paper: ClassVar[str] = "Ponkshe et al., 2024, arXiv 2411.19557 (LoRA-SB)"
    summary: ClassVar[str] = "Trains an r x r matrix between directions of the first full gradient step"
    identity: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Check the options."""
        super().__post_init__()
        if self.eta <= 0:
            raise UsageError(f"eta={self.eta}", expected="above 0")

    def check_recipe(self, recipe: Recipe) -> None:
        """See `FitsSome`.

        Raises:
            MissingResourceError: The folder of the basis holds no adapter.
            UsageError: The basis belongs to another base model.
        """
        folder = Path(self.basis)
        if not self.basis:
            return
        if not (folder / "adapter_config.json").is_file():
            raise MissingResourceError(
                f"basis = {self.basis!r} holds no adapter", expected="the folder of a LoRA-SB adapter, or of a mean"
            )
        trained = read_trained(folder)
        if trained and trained.model != recipe.model:
            raise UsageError(
                f"basis = {self.basis!r} was trained on {trained.model!r}, and the recipe's model is {recipe.model!r}",
                expected="one base model, under one name",
            )

    def maker(self, model: Any, names: Sequence[str], calibrate: Calibrate) -> Maker:
        """See `FrozenBasis`; the first step of each matrix, or the basis that is given."""
        if self.basis:
            from rerank.finetune.extra.adapters.lora_sb.given_basis import between, read_basis

            given = read_basis(Path(self.basis), dict.fromkeys(names, self.r))
            return lambda name, weight: between(*(factor.to(weight.device) for factor in given[name]))
        from rerank.finetune.adapters.base.gradients import gradients

        found = gradients(model, names, calibrate)
        return lambda name, weight: self.parts(-self.eta * found[name].sign())

    def parts(self, matrix: torch.Tensor) -> tuple[torch.nn.Module, torch.nn.Module]:
        """See `FrozenBasis`."""
        import torch

        from rerank.finetune.adapters.base.frozen_basis_layers import Down, Up

        u, s, v = torch.linalg.svd(matrix, full_matrices=False)
        core = torch.diag(s[: self.r])
        return Down(v[: self.r], core, torch.zeros_like(core)), Up(u[:, : self.r])

    def trainable(self, shapes: Sequence[tuple[int, int]]) -> int:
        """A matrix: r^2."""
        return self.r**2 * len(shapes)
