"""Any method of the library peft, by the name of its configuration."""

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
    """Any adapter of the library peft: the options are the fields of its configuration, and peft does the rest.

    The adapted matrices are those of ``targets`` and ``layers``, unless the options have ``target_modules``. Fields for
    random seeds get the seed of the recipe unless they are given. Whether the start is the identity and whether the
    result can be merged is found by trying the configuration on a small model.

    Attributes:
        config: Type of the configuration, such as ``boft``, or its class, such as ``BOFTConfig``.
        options: All other options: fields of the configuration.
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
        """Store the name and the options; they are checked when the recipe is, because that needs peft."""
        values = {"config": config, "targets": targets, "layers": layers, "options": {**(options or {}), **more}}
        for name, value in values.items():
            object.__setattr__(self, name, value)
        self.__post_init__()

    @property
    def configuration(self) -> str:
        """Type or class name of the configuration."""
        return self.config

    @property
    def shape(self) -> ParameterKind:  # type: ignore[override]
        """``lora`` for peft's LoRA, ``full`` for OSF, which trains factors of whole matrices, else ``other``."""
        kinds: Mapping[str, ParameterKind] = {"lora": "lora", "osf": "full"}
        return kinds.get(self.config.lower().removesuffix("config"), "other")

    @property
    def identity(self) -> bool:  # type: ignore[override]
        """Whether the outputs of the small model stay the same."""
        return self._behaviour.identity

    @property
    def moves_base(self) -> bool:  # type: ignore[override]
        """Whether peft changes weights of the small model."""
        return self._behaviour.moves_base

    @property
    def merges(self) -> bool:  # type: ignore[override]
        """Whether peft can merge the adapter into the small model."""
        return self._behaviour.merges

    @property
    def vllm(self) -> bool:  # type: ignore[override]
        """Whether the configuration is that of a plain LoRA."""
        from rerank.backends.vllm.adapters import features_unsupported_by_vllm
        from rerank.finetune.adapters.base.peft_configurations import make_peft_configuration

        config = make_peft_configuration(self.config, self.options, ["linear"], seed=0)
        return not features_unsupported_by_vllm(config.to_dict())

    def check_recipe(self, recipe: Recipe) -> None:
        """Check the name and the options before the model is loaded.

        Raises:
            MissingPrerequisiteError: peft is not installed.
            UsageError: There is no such configuration or option, peft rejects a value, or the method cannot be trained.
        """
        if not self.config:
            raise UsageError("The adapter 'peft' without config", expected="a configuration of peft, such as 'boft'")
        if find_spec("peft") is None:
            raise MissingPrerequisiteError("peft is not installed", remedy="pip install 'listrank[train]'")
        from rerank.finetune.adapters.base.peft_configurations import make_peft_configuration

        if "target_modules" in self.options and (self.targets != "all-linear" or self.layers is not None):
            raise UsageError(
                "target_modules of peft together with targets or layers", expected="one way of naming the matrices"
            )
        make_peft_configuration(self.config, self.options, ["linear"], seed=recipe.seed)

    def peft_options(self) -> Mapping[str, Any]:
        """Return the options of the recipe."""
        return self.options

    def attach(self, model: Any, calibrate: CalibrationBatches, *, seed: int) -> Any:
        """Return the model wrapped by peft, after a pass over one list of the training.

        Raises:
            UsageError: peft rejects the configuration for this model, or the method needs inputs besides text.
        """
        from rerank.finetune.adapters.base.peft_files import convert_peft_errors

        wrapped = super().attach(model, calibrate, seed=seed)
        with convert_peft_errors(self.config):
            calibrate.forward(wrapped, lists=1)
        return wrapped

    @cached_property
    def _behaviour(self) -> PeftBehaviour:
        from rerank.finetune.adapters.base.peft_trials import try_peft_configuration

        return try_peft_configuration(self.config, self.options)
