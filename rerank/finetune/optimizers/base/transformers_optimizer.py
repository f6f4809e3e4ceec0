"""Optimizers under the names that transformers' `TrainingArguments` accepts as ``optim``. Torch is imported on use."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, ClassVar

from rerank.errors import MissingPrerequisiteError, UnknownNameError, UsageError
from rerank.finetune.components import PARAMETER_KINDS, ParameterKind

if TYPE_CHECKING:
    from rerank.finetune.recipe import Recipe

#: Packages that optimizers need: pattern of optimizer names, module, and distribution to install. The first matching
#: pattern is used.
_PACKAGES = (
    ("adamw_torch_[48]bit", "torchao", "torchao"),
    ("adamw_torch_xla", "torch_xla", "torch_xla"),
    ("adamw_torch_npu", "torch_npu", "torch_npu"),
    ("anyprecision", "torchdistx", "torchdistx"),
    ("schedule_free", "schedulefree", "schedulefree"),
    ("stable_adamw", "optimi", "torch-optimi"),
    ("8bit|bnb|paged|ademamix|lion", "bitsandbytes", "bitsandbytes"),
)
#: Optimizers that cannot be used: pattern of optimizer names, reason, and remedy, which complete an error message.
_REFUSED = (
    (
        "lomo|layerwise",
        "changes weights during the backward pass, before gradients are accumulated, clipped and checked",
        "Use the optimizer galore or apollo, whose state is small too",
    ),
    (
        "galore|apollo",
        "keeps Python objects in its state, which cannot be loaded from a checkpoint again",
        "Use the optimizer galore or apollo of this package, which can be resumed",
    ),
    ("grokadamw", "does not continue a resumed training exactly", "Use another optimizer, such as adamw"),
)


def find_transformers_optimizer(name: str, options: Mapping[str, Any], *, own: Sequence[str]) -> TransformersOptimizer:
    """Return the optimizer of transformers with this name.

    Args:
        name: A value of ``optim`` of `TrainingArguments`, with underscores or hyphens.
        options: Options of the optimizer's class.
        own: Names of the optimizers of this package, for the message.

    Raises:
        UnknownNameError: Neither this package nor transformers has an optimizer with this name.
        UsageError: The optimizer cannot be used for the training of a recipe.
    """
    from transformers.training_args import OptimizerNames

    name, theirs = name.replace("-", "_"), [str(member.value) for member in OptimizerNames]
    if name not in theirs:
        raise UnknownNameError("optimizer", name, [*own, *theirs], limit=len(own) + len(theirs))
    for pattern, problem, remedy in _REFUSED:
        if re.search(pattern, name):
            raise UsageError(f"The optimizer {name!r} {problem}", remedy=remedy)
    return TransformersOptimizer(name=name, options=options)


@dataclass(frozen=True, kw_only=True)
class TransformersOptimizer:
    """An optimizer of transformers, with the defaults of `TrainingArguments`.

    Learning rate and weight decay are those of the recipe. As for all optimizers, vectors have no weight decay.

    Attributes:
        name: Value of ``optim`` of `TrainingArguments`.
        options: Keyword arguments of the optimizer's class, which replace transformers' defaults.
    """

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)

    paper: ClassVar[str] = ""
    summary: ClassVar[str] = "An optimizer of transformers, by its name in TrainingArguments"
    fits: ClassVar[frozenset[ParameterKind]] = frozenset(PARAMETER_KINDS)
    reason: ClassVar[str] = ""

    @property
    def needs(self) -> str:
        """Required device: ``cuda`` for the optimizers of bitsandbytes, empty for all others."""
        return "cuda" if self._package[0] == "bitsandbytes" else ""

    @property
    def _package(self) -> tuple[str, str]:
        """Module that the optimizer needs, and distribution of the module; both are empty if no module is needed."""
        found = (package for pattern, *package in _PACKAGES if re.search(pattern, self.name))
        module, distribution = next(found, ("", ""))
        return module, distribution

    def check_machine(self) -> None:
        """Check that the package and the device that the optimizer needs are available.

        Raises:
            MissingPrerequisiteError: The package or the device is missing.
        """
        import torch

        module, distribution = self._package
        if module and find_spec(module) is None:
            raise MissingPrerequisiteError(
                f"The optimizer {self.name!r} needs the package {distribution}, which is not installed",
                remedy=f"Run: pip install {distribution}, or use another optimizer, such as adamw",
            )
        if self.needs and not torch.cuda.is_available():
            raise MissingPrerequisiteError(
                f"The optimizer {self.name!r} needs a GPU, and none was found",
                remedy="Train on a machine with a GPU, or use another optimizer, such as adamw",
            )

    def check_recipe(self, recipe: Recipe) -> None:
        """Check the options, and reject components that drop optimizer state if the optimizer cannot create it again.

        Raises:
            UsageError: An option is invalid, or the optimizer does not fit the other components.
        """
        try:
            self.check_machine()
        except MissingPrerequisiteError:
            return  # a recipe may be checked on another machine than the one that trains
        import torch

        optimizer = self._optimizer([torch.nn.Parameter(torch.zeros(2, 2))], recipe.optimizer.lr, 0.0)
        if optimizer.state and (recipe.layers or recipe.callbacks):
            raise UsageError(
                f"The optimizer {self.name!r} creates its state only before the first step, but layer sampling and "
                "callbacks drop the state of parameters during training",
                expected="an optimizer that creates its state again, such as adamw",
            )

    def build(self, model: Any, *, lr: float, weight_decay: float) -> Any:
        """Return the optimizer over the trainable parameters of the model.

        The 8-bit optimizers keep the moments of embeddings in 32 bits, as transformers does.
        """
        from rerank.finetune.optimizers.base.parameter_groups import make_parameter_groups

        optimizer = self._optimizer(make_parameter_groups(model, weight_decay), lr, weight_decay)
        if self.needs and "8bit" in self.name:
            from bitsandbytes.optim import GlobalOptimManager
            from torch import nn

            for module in model.modules():
                if isinstance(module, nn.Embedding):
                    GlobalOptimManager.get_instance().register_module_override(module, "weight", {"optim_bits": 32})
        return optimizer

    def _optimizer(self, groups: list[Any], lr: float, weight_decay: float) -> Any:
        """Construct the optimizer of transformers with the recipe's options.

        Raises:
            UnknownNameError: An option does not exist.
            UsageError: The value of an option is invalid.
        """
        from transformers import Trainer, TrainingArguments
        from transformers.training_args import OptimizerNames

        defaults = {entry.name: entry.default for entry in TrainingArguments.__dataclass_fields__.values()}
        # Constructing TrainingArguments would select a device for the whole process.
        arguments: Any = SimpleNamespace(
            **defaults | {"optim": OptimizerNames(self.name), "learning_rate": lr, "weight_decay": weight_decay}
        )
        make, values = Trainer.get_optimizer_cls_and_kwargs(arguments)
        allowed = [name for name in inspect.signature(make).parameters if name not in ("params", "lr", "weight_decay")]
        for option in self.options:
            if option not in allowed:
                raise UnknownNameError(f"option of {self.name!r}:", option, allowed, limit=len(allowed))
        try:
            return make(groups, **values | dict(self.options))
        except (TypeError, ValueError) as error:
            raise UsageError(
                f"The optimizer {self.name!r} rejects its options {dict(self.options)}: {error}"
            ) from error
