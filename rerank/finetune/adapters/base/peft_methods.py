"""Base classes of adapters that peft implements; each adapter supplies a configuration of peft."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from rerank.finetune.adapters.base.targets import LinearTargets, LowRankTargets
from rerank.finetune.components import CalibrationBatches, ParameterKind


class PeftAdapter(ABC):
    """Base class of adapters that peft implements; each subclass supplies the `peft.PeftConfig` of its method."""

    shape: ClassVar[ParameterKind] = "other"
    identity: ClassVar[bool] = True
    moves_base: ClassVar[bool] = False
    merges: ClassVar[bool] = True
    saves: ClassVar[Literal["adapter", "model"]] = "adapter"
    vllm: ClassVar[bool] = False
    needs: ClassVar[str] = ""

    def attach(self, model: Any, calibrate: CalibrationBatches, *, seed: int) -> Any:
        """Return the model wrapped by peft with the configuration of `peft_config`."""
        from rerank.finetune.adapters.base import peft_files

        return peft_files.wrap_model_with_adapter(model, self.peft_config(model, seed), seed=seed)

    def save(self, model: Any, folder: Path) -> None:
        """Write the adapter in peft's format."""
        from rerank.finetune.adapters.base import peft_files

        peft_files.save_adapter(model, folder)

    @abstractmethod
    def peft_config(self, model: Any, seed: int) -> Any:
        """Return the `peft.PeftConfig` for an unmodified model."""


@dataclass(frozen=True, kw_only=True)
class NamedPeftAdapter(LinearTargets, PeftAdapter):
    """Base class of adapters that are completely defined by the name and the options of a configuration of peft."""

    @property
    @abstractmethod
    def configuration(self) -> str:
        """Type or class name of the configuration, such as ``boft``."""

    @abstractmethod
    def peft_options(self) -> Mapping[str, Any]:
        """Return the fields to set in the configuration of peft, as a mapping from name to value."""

    def peft_config(self, model: Any, seed: int) -> Any:
        """Build the `peft.PeftConfig` from the configuration's name, its options and the modules of the model."""
        from rerank.finetune.adapters.base import peft_configurations

        options = self.peft_options()
        given = "target_modules" in options
        targets = [] if given else peft_configurations.default_target_modules(self.configuration, self, model)
        return peft_configurations.make_peft_configuration(self.configuration, options, targets, seed=seed)

    def attach(self, model: Any, calibrate: CalibrationBatches, *, seed: int) -> Any:
        """Return the model as a `peft.PeftModel` with the adapter attached.

        Raises:
            UsageError: peft rejects the configuration for this model.
        """
        from rerank.finetune.adapters.base import peft_files

        config = self.peft_config(model, seed)
        with peft_files.convert_peft_errors(self.configuration):
            return peft_files.wrap_model_with_adapter(model, config, seed=seed)

    def count_trainable(self, shapes: Sequence[tuple[int, int]]) -> int:
        """Return the number of parameters that peft trains when it adapts matrices of these shapes."""
        from rerank.finetune.adapters.base.peft_trials import count_trained_by_peft

        return count_trained_by_peft(self.configuration, self.peft_options(), shapes)


@dataclass(frozen=True, kw_only=True)
class LoraFamily(LowRankTargets, PeftAdapter):
    """Base class of LoRA variants that peft implements; they differ in `lora_options`."""

    shape: ClassVar[ParameterKind] = "lora"
    vllm: ClassVar[bool] = True

    def peft_config(self, model: Any, seed: int) -> Any:
        """Return the LoRA configuration with the ranks of the targets and the fields of `lora_options`."""
        from rerank.finetune.adapters.base import peft_files

        ranks = self.ranks(model)
        alphas = {name: self.alpha_for(rank) for name, rank in ranks.items()}
        return peft_files.make_lora_config(ranks, alphas, lora_dropout=self.dropout, **self.lora_options())

    def lora_options(self) -> dict[str, Any]:
        """Return the fields of `peft.LoraConfig` that define the variant."""
        return {}

    def alpha_for(self, rank: int) -> float:
        """Return the alpha that gives a matrix of rank ``rank`` the same scaling factor as a matrix of rank ``r``."""
        return self.alpha * rank / self.r
