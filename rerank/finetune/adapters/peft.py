"""The adapter for all methods of the library peft, selected by the name of their configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, ClassVar

from rerank.errors import MissingPrerequisiteError, UsageError
from rerank.finetune.adapters.base.peft_methods import NamedPeftAdapter
from rerank.finetune.components import CalibrationBatches, ParameterKind

if TYPE_CHECKING:
    from rerank.finetune.adapters.base.peft_trials import PeftBehaviour
    from rerank.finetune.recipe import Recipe


@dataclass(frozen=True, kw_only=True, init=False)
class Peft(NamedPeftAdapter):
    """Any adapter of the library peft; the options are the fields of its configuration.

    The adapted matrices are those of ``targets`` and ``layers``, unless the options contain ``target_modules``. Fields
    for random seeds have the seed of the recipe by default. The properties `identity`, `moves_base` and `merges` are
    determined by applying the configuration to a small model.

    Attributes:
        config: Type of the configuration, such as ``boft``, or its class, such as ``BOFTConfig``.
        options: Values of the configuration's fields; further keyword arguments of the constructor are added to these
            values.
    """

    config: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)

    paper: ClassVar[str] = "Mangrulkar et al., 2022 (the library PEFT)"
    summary: ClassVar[str] = "Any configuration of peft, such as boft, hra, ia3 or miss"

    def __init__(
        self,
        *,
        config: str = "",
        targets: str | tuple[str, ...] = "all-linear",
        layers: int | None = None,
        options: Mapping[str, Any] | None = None,
        **more: Any,
    ) -> None:
        """Store the arguments without checking them; the check needs peft and is made by `check_recipe`."""
        values = {"config": config, "targets": targets, "layers": layers, "options": {**(options or {}), **more}}
        for name, value in values.items():
            object.__setattr__(self, name, value)
        self.__post_init__()

    @property
    def configuration(self) -> str:
        """Type or class name of the configuration of peft, as given in the recipe."""
        return self.config

    @property
    def shape(self) -> ParameterKind:  # type: ignore[override]
        """Kind of the trained parameters: ``lora`` for LoRA, ``full`` for OSF, ``other`` for all other methods."""
        kinds: Mapping[str, ParameterKind] = {"lora": "lora", "osf": "full"}
        return kinds.get(self.config.lower().removesuffix("config"), "other")

    @property
    def identity(self) -> bool:  # type: ignore[override]
        """Whether the adapter leaves the outputs of a small model unchanged before training."""
        return self._behaviour.identity

    @property
    def moves_base(self) -> bool:  # type: ignore[override]
        """Whether attaching the adapter changes base weights of a small model."""
        return self._behaviour.moves_base

    @property
    def merges(self) -> bool:  # type: ignore[override]
        """Whether peft can merge the adapter into a small model without changing the outputs."""
        return self._behaviour.merges

    @property
    def vllm(self) -> bool:  # type: ignore[override]
        """Whether vLLM supports all features of the configuration, as it does for a plain LoRA."""
        from rerank.backends.vllm.adapters import features_unsupported_by_vllm
        from rerank.finetune.adapters.base.peft_configurations import make_peft_configuration

        config = make_peft_configuration(self.config, self.options, ["linear"], seed=0)
        return not features_unsupported_by_vllm(config.to_dict())

    def check_recipe(self, recipe: Recipe) -> None:
        """Check the name of the configuration and its options before the model is loaded."""
        if not self.config:
            raise UsageError(
                "The adapter 'peft' is used without its option config",
                expected="the name of a configuration of peft, such as config = 'boft'",
            )
        if find_spec("peft") is None:
            raise MissingPrerequisiteError("peft is not installed", remedy="pip install 'listrank[train]'")
        from rerank.finetune.adapters.base.peft_configurations import make_peft_configuration

        if "target_modules" in self.options and (self.targets != "all-linear" or self.layers is not None):
            raise UsageError(
                "The adapter 'peft' has both target_modules and targets or layers",
                expected="either target_modules, or targets and layers",
            )
        make_peft_configuration(self.config, self.options, ["linear"], seed=recipe.seed)

    def peft_options(self) -> Mapping[str, Any]:
        """Return the options that the recipe sets for the configuration of peft."""
        return self.options

    def attach(self, model: Any, calibrate: CalibrationBatches, *, seed: int) -> Any:
        """Return the model wrapped by peft, after checking it with a forward pass over one training list."""
        from rerank.finetune.adapters.base.peft_files import convert_peft_errors

        wrapped = super().attach(model, calibrate, seed=seed)
        with convert_peft_errors(self.config):
            calibrate.forward(wrapped, lists=1)
        return wrapped

    @cached_property
    def _behaviour(self) -> PeftBehaviour:
        from rerank.finetune.adapters.base.peft_trials import try_peft_configuration

        return try_peft_configuration(self.config, self.options)
