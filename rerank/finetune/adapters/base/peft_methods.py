"""Methods that peft trains and saves by itself: a configuration each. Knows no method's name."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from rerank.finetune.adapters.base.targets import LowRank
from rerank.finetune.parts import Calibrate, Shape


class PeftMethod(ABC):
    """A method of peft that starts as the model is, trains new parameters and loads what it saves."""

    shape: ClassVar[Shape] = "other"
    identity: ClassVar[bool] = True
    moves_base: ClassVar[bool] = False
    merges: ClassVar[bool] = True
    saves: ClassVar[Literal["adapter", "model"]] = "adapter"
    vllm: ClassVar[bool] = False
    needs: ClassVar[str] = ""

    def attach(self, model: Any, calibrate: Calibrate, *, seed: int) -> Any:
        """See `Adapter`."""
        from rerank.finetune.adapters.base import peft_files

        return peft_files.wrap(model, self.config(model, seed), seed=seed)

    def save(self, model: Any, folder: Path) -> None:
        """See `Adapter`."""
        from rerank.finetune.adapters.base import peft_files

        peft_files.save(model, folder)

    @abstractmethod
    def config(self, model: Any, seed: int) -> Any:
        """The `peft.PeftConfig` for an untouched model."""


@dataclass(frozen=True, kw_only=True)
class LoraFamily(LowRank, PeftMethod):
    """Factors that peft trains as they are; what differs is in `options`."""

    shape: ClassVar[Shape] = "lora"
    vllm: ClassVar[bool] = True

    def config(self, model: Any, seed: int) -> Any:
        """See `PeftMethod`."""
        from rerank.finetune.adapters.base import peft_files

        ranks = self.ranks(model)
        alphas = {name: self.alpha_of(rank) for name, rank in ranks.items()}
        return peft_files.lora_config(ranks, alphas, lora_dropout=self.dropout, **self.options())

    def options(self) -> dict[str, Any]:
        """Fields of `peft.LoraConfig` that make the method."""
        return {}

    def alpha_of(self, rank: int) -> float:
        """The alpha that gives a matrix of this rank the factor that one of rank `r` has."""
        return self.alpha * rank / self.r


@dataclass(frozen=True, kw_only=True)
class MovedStart(LoraFamily):
    """Factors that begin with a product other than 0, which the base model's weights are reduced by.

    The base model W becomes W - s B0 A0, so an adapter (B, A) is of use on that model alone. Saved is what was learnt,
    s (B A - B0 A0), as one LoRA of twice the rank with factors [B, -B0] and [A; A0], which fits the untouched model.
    The beginning is kept in buffers ``start_A`` and ``start_B`` of each layer, so that it moves with the model.
    """

    moves_base: ClassVar[bool] = True

    def attach(self, model: Any, calibrate: Calibrate, *, seed: int) -> Any:
        """See `Adapter`."""
        from rerank.finetune.adapters.base import peft_files

        wrapped = super().attach(model, calibrate, seed=seed)
        layers = dict(peft_files.lora_layers(wrapped))
        for name, (b, a) in peft_files.factors(wrapped).items():
            layers[name].register_buffer("start_B", b.clone())
            layers[name].register_buffer("start_A", a.clone())
        return wrapped

    def save(self, model: Any, folder: Path) -> None:
        """See `Adapter`."""
        import torch

        from rerank.finetune.adapters.base import peft_files

        layers = dict(peft_files.lora_layers(model))
        learnt = {
            name: (torch.cat([b, -layers[name].start_B], dim=1), torch.cat([a, layers[name].start_A]))
            for name, (b, a) in peft_files.factors(model).items()
        }
        peft_files.save_factors(model, learnt, folder, scaling=peft_files.scaling(model))
