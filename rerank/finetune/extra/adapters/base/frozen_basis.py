"""Base class of adapters that train a small matrix between two frozen bases, such as LoRA-XS."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from rerank.finetune.adapters.base.targets import (
    LinearTargets,
    require_adapter_fraction,
    require_adapter_option_at_least,
    require_ranks_fit,
)
from rerank.finetune.components import CalibrationBatches, ParameterKind

if TYPE_CHECKING:
    import torch

#: Function that takes a module name and the module's float32 weight (rows, columns), and returns the modules that
#: replace A and B.
FactorBuilder = Callable[[str, "torch.Tensor"], tuple["torch.nn.Module", "torch.nn.Module"]]


@dataclass(frozen=True, kw_only=True)
class FrozenBasis(LinearTargets, ABC):
    """Base class of adapters with the update B R A, in which only R is trained. They are saved as plain LoRA adapters.

    The method `factor_modules` computes the frozen B and A for each matrix.

    Attributes:
        r: Number of basis vectors.
        dropout: Dropout probability of the inputs to A.
    """

    r: int = 16
    dropout: float = 0.0

    shape: ClassVar[ParameterKind] = "other"
    identity: ClassVar[bool] = True
    moves_base: ClassVar[bool] = False
    merges: ClassVar[bool] = True
    saves: ClassVar[Literal["adapter", "model"]] = "adapter"
    vllm: ClassVar[bool] = True
    needs: ClassVar[str] = ""

    def __post_init__(self) -> None:
        """Check that ``r`` and ``dropout`` are in range."""
        super().__post_init__()
        require_adapter_option_at_least("r", self.r, 1)
        require_adapter_fraction("dropout", self.dropout)

    def attach(self, model: Any, calibrate: CalibrationBatches, *, seed: int) -> Any:
        """Return the model with one LoRA layer per adapted matrix; `factor_builder` supplies the factors.

        Raises:
            UsageError: A matrix has fewer singular directions than ``r``.
        """
        import torch

        from rerank.finetune.adapters.base import peft_files

        ranks = self.ranks(model)
        build_factors = self.factor_builder(model, list(ranks), calibrate)
        # With alpha = r, the scaling factor alpha / r is 1, and the update is exactly B R A.
        alphas = {name: float(rank) for name, rank in ranks.items()}
        wrapped = peft_files.wrap_model_with_adapter(
            model, peft_files.make_lora_config(ranks, alphas, lora_dropout=self.dropout), seed=seed
        )
        torch.manual_seed(seed)  # some bases are drawn at random
        for name, layer in peft_files.iter_lora_layers(wrapped):
            weight = layer.get_base_layer().weight.detach()
            layer.lora_A[peft_files.ADAPTER], layer.lora_B[peft_files.ADAPTER] = build_factors(name, weight.float())
        return wrapped.train(model.training)

    def save(self, model: Any, folder: Path) -> None:
        """Write a plain LoRA; the trained matrix R is multiplied into its factors."""
        from rerank.finetune.adapters.base import peft_files

        peft_files.save_adapter_factors(model, peft_files.read_adapter_factors(model), folder)

    def ranks(self, model: Any) -> dict[str, int]:
        """Return the rank of the saved LoRA per module name.

        Raises:
            UsageError: A matrix has fewer singular directions than ``r``.
        """
        ranks = dict.fromkeys(self.module_names(model), self.r)
        require_ranks_fit("r", ranks, self.shapes(model))
        return ranks

    def factor_builder(self, model: Any, names: Sequence[str], calibrate: CalibrationBatches) -> FactorBuilder:
        """Return the function that builds both factors of a matrix from its name and weight."""
        return lambda name, weight: self.factor_modules(weight)

    @abstractmethod
    def factor_modules(self, matrix: torch.Tensor) -> tuple[torch.nn.Module, torch.nn.Module]:
        """Return the modules that replace A and B for a float32 matrix of shape (rows, columns)."""

    @abstractmethod
    def count_trainable(self, shapes: Sequence[tuple[int, int]]) -> int:
        """Return the number of trainable parameters, computed by the formula of the adapter's paper."""
