"""What the methods that train between fixed bases share. Knows where the parts go, not how bases are found."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from rerank.finetune.adapters.base.targets import LinearTargets, at_least, fits, share
from rerank.finetune.parts import Calibrate, Shape

if TYPE_CHECKING:
    import torch

#: Module name and weight (rows, columns) in float32 -> what stands for A and for B.
Maker = Callable[[str, "torch.Tensor"], tuple["torch.nn.Module", "torch.nn.Module"]]


@dataclass(frozen=True, kw_only=True)
class FrozenBasis(LinearTargets, ABC):
    """B R A with fixed B and A, which `parts` finds for each matrix; saved as a plain LoRA.

    Attributes:
        r: How many directions the bases have.
        dropout: Share of the inputs to A that is dropped in training.
    """

    r: int = 16
    dropout: float = 0.0

    shape: ClassVar[Shape] = "other"
    identity: ClassVar[bool] = True
    moves_base: ClassVar[bool] = False
    merges: ClassVar[bool] = True
    saves: ClassVar[Literal["adapter", "model"]] = "adapter"
    vllm: ClassVar[bool] = True
    needs: ClassVar[str] = ""

    def __post_init__(self) -> None:
        """Check the options."""
        super().__post_init__()
        at_least("r", self.r, 1)
        share("dropout", self.dropout)

    def attach(self, model: Any, calibrate: Calibrate, *, seed: int) -> Any:
        """See `Adapter`.

        Raises:
            UsageError: A matrix has fewer directions than are asked for.
        """
        import torch

        from rerank.finetune.adapters.base import peft_files

        ranks = self.ranks(model)
        made = self.maker(model, list(ranks), calibrate)
        alphas = {name: float(rank) for name, rank in ranks.items()}
        wrapped = peft_files.wrap(model, peft_files.lora_config(ranks, alphas, lora_dropout=self.dropout), seed=seed)
        torch.manual_seed(seed)
        for name, layer in peft_files.lora_layers(wrapped):
            weight = layer.get_base_layer().weight.detach()
            layer.lora_A[peft_files.ADAPTER], layer.lora_B[peft_files.ADAPTER] = made(name, weight.float())
        return wrapped.train(model.training)

    def save(self, model: Any, folder: Path) -> None:
        """See `Adapter`."""
        from rerank.finetune.adapters.base import peft_files

        peft_files.save_factors(model, peft_files.factors(model), folder)

    def ranks(self, model: Any) -> dict[str, int]:
        """Module name -> the rank of the LoRA that is saved.

        Raises:
            UsageError: A matrix has fewer directions than are asked for.
        """
        ranks = dict.fromkeys(self.names(model), self.r)
        fits("r", ranks, self.shapes(model))
        return ranks

    def maker(self, model: Any, names: Sequence[str], calibrate: Calibrate) -> Maker:
        """What gives the parts of each matrix, once it has looked at the untouched model."""
        return lambda name, weight: self.parts(weight)

    @abstractmethod
    def parts(self, matrix: torch.Tensor) -> tuple[torch.nn.Module, torch.nn.Module]:
        """What stands for A and for B, from the matrix (rows, columns) that gives the bases, in float32."""

    @abstractmethod
    def trainable(self, shapes: Sequence[tuple[int, int]]) -> int:
        """See `Adapter`."""
