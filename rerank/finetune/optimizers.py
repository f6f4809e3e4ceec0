"""Optimizers: options that build a torch optimizer for a model. Only `build` and checks import torch."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from types import SimpleNamespace
from typing import Any, ClassVar

from rerank.errors import MissingPrerequisiteError, UnknownNameError, UsageError
from rerank.finetune import kernels
from rerank.finetune.components import FULL, LORA, PARAMETER_KINDS, ComponentBase, ParameterKind, Shapes, option
from rerank.finetune.recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class AdamOptions(ComponentBase):
    """Options of optimizers that use Adam's moments."""

    needs: ClassVar[str] = ""

    beta1: float = option(0.9, at_least=0, below=1)  #: Decay rate of the first moment.
    beta2: float = option(0.999, at_least=0, below=1)  #: Decay rate of the second moment.
    eps: float = option(1e-8, above=0)  #: Term added to the square root of the second moment.

    @property
    def moments(self) -> dict[str, Any]:
        return {"betas": (self.beta1, self.beta2), "eps": self.eps}

    def count_state(self, shapes: Shapes) -> int:
        return sum(2 * rows * columns for rows, columns in shapes)


@dataclass(frozen=True, kw_only=True)
class Adamw(AdamOptions):
    """torch's AdamW with two float32 moments per trainable parameter; it supports every adapter.

    If weights are in bfloat16, updates smaller than about 1/256 of a weight are lost to rounding. This holds for every
    optimizer of this package.
    """

    fits: ClassVar[frozenset[ParameterKind]] = frozenset(PARAMETER_KINDS)
    reason: ClassVar[str] = ""
    elementwise: ClassVar[bool] = True

    def build(self, model: Any, *, lr: float, weight_decay: float) -> Any:
        return kernels.adamw.ExactAdamW(kernels.adamw.make_parameter_groups(model, weight_decay), lr=lr, **self.moments)


@dataclass(frozen=True, kw_only=True)
class LoraPlus(AdamOptions):
    """AdamW whose learning rate for the LoRA factor B is ``ratio`` times its learning rate for the factor A.

    peft's `create_loraplus_optimizer` differs: it uses the learning rate of B for vectors (DoRA's magnitudes, biases),
    applies weight decay to magnitudes, and gives factors of embeddings a fixed learning rate.
    """

    fits: ClassVar[frozenset[ParameterKind]] = LORA
    reason: ClassVar[str] = "It has different learning rates for lora_A and lora_B, which other adapters lack"

    #: Learning rate of B divided by the learning rate of A. A has the learning rate of the recipe.
    ratio: float = option(16.0, above=0)

    def build(self, model: Any, *, lr: float, weight_decay: float) -> Any:
        def rate(name: str, weight: Any) -> dict[str, float]:
            return {"lr": lr * self.ratio if "lora_B" in name or "lora_embedding_B" in name else lr}

        groups = kernels.adamw.make_parameter_groups(model, weight_decay, rate)
        return kernels.adamw.ExactAdamW(groups, lr=lr, **self.moments)


@dataclass(frozen=True, kw_only=True)
class SubspaceOptions(AdamOptions):
    """Options of optimizers that save memory by keeping their moments in a subspace.

    The attributes below, which `rerank.finetune.kernels.adamw_variants` reads, define a method. A subclass is a row: it
    sets some of them, and makes options of others.
    """

    fits: ClassVar[frozenset[ParameterKind]] = FULL
    reason: ClassVar[str] = "It projects gradients of whole weight matrices; those of adapters are already small"
    #: Basis of the subspace: singular vectors (``svd``), columns of the cosine transform (``cosine``) or ``noise``.
    basis = "svd"
    #: Treatment of the part of the gradient outside the subspace. ``drop`` ignores it; ``add`` adds it with a scaling
    #: factor (Fira); ``instead`` scales the full gradient instead of the projected one (APOLLO).
    rest = "drop"
    tensorwise = False  #: Use one scaling factor per matrix instead of one per row.
    history = 0  #: Number of projected gradients in the Fisher matrix; 0 for no preconditioning.
    damping = 1e-3  #: Term added to the diagonal of the Fisher matrix.
    seed = 0  #: Seed of the Gaussian noise.

    rank: int = option(128, above=0)  #: Dimension of the subspace; at most the shorter side of the matrix.
    gap: int = option(200, above=0)  #: Number of steps between two choices of the subspace.
    #: Factor of the update of a matrix, projected back from the subspace or scaled as a whole.
    scale: float = option(0.25, above=0)

    def count_state(self, shapes: Shapes) -> int:
        total = 0
        for sides in shapes:
            long, short = max(sides), min(sides)
            if short == 1:  # vectors and embeddings, given as (1, size), keep the two moments of AdamW
                total += 2 * long
                continue
            rank = min(self.rank, short)
            stored_basis = {"svd": rank * short, "cosine": rank, "noise": 1}[self.basis]
            total += 2 * long * rank + stored_basis + (0 if self.rest == "drop" else 1) + self.history * long * rank
        return total

    def build(self, model: Any, *, lr: float, weight_decay: float) -> Any:
        projected = kernels.adamw.projectable_matrices(model)
        groups = kernels.adamw.make_parameter_groups(
            model, weight_decay, lambda name, weight: {"projected": weight in projected}
        )
        return kernels.adamw_variants.SubspaceAdamW(groups, lr=lr, rule=self, **self.moments)


@dataclass(frozen=True, kw_only=True)
class Galore(SubspaceOptions):
    """Adam on projected gradients of matrices; the updates are projected back to the full matrices.

    Each choice of the subspace costs a singular value decomposition per gradient. With ``factors``, GaLore projects
    the gradients of an adapter's factors instead; ``rank`` should then be below the adapter's rank.
    """

    factors: bool = False  #: Train the factors of an adapter instead of the weights of the model.

    @property
    def fits(self) -> frozenset[ParameterKind]:  # type: ignore[override]
        return LORA if self.factors else FULL

    @property
    def reason(self) -> str:  # type: ignore[override]
        if self.factors:
            return "With factors=true it projects the gradients of lora_A and lora_B, which other adapters lack"
        return f"{SubspaceOptions.reason}. To project gradients of adapter factors, set factors=true and a small rank"


@dataclass(frozen=True, kw_only=True)
class Apollo(SubspaceOptions):
    """Adam on a random projection of the gradient; Adam's step sizes then scale the rows of the full gradient.

    The norm of an update may grow by at most 1 % per step. APOLLO-Mini is ``rank=1,tensorwise=true,scale=11.3`` (the
    square root of 128). Training cannot be resumed from the optimizer state of apollo-torch, which transformers uses.
    """

    basis = "noise"
    rest = "instead"

    rank: int = option(256, above=0)
    scale: float = option(1.0, above=0)
    tensorwise: bool = False
    seed: int = 0


# Optimizers of transformers, by the names that its `TrainingArguments` accepts as ``optim``.

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
    """Return the optimizer of transformers with this value of `TrainingArguments.optim`; hyphens are accepted."""
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
    """An optimizer of transformers, with the defaults of `TrainingArguments` and no weight decay on vectors."""

    paper: ClassVar[str] = ""
    summary: ClassVar[str] = "An optimizer of transformers, by its name in TrainingArguments"
    fits: ClassVar[frozenset[ParameterKind]] = frozenset(PARAMETER_KINDS)
    reason: ClassVar[str] = ""

    name: str  #: Value of ``optim`` of `TrainingArguments`.
    #: Keyword arguments of the optimizer's class, which replace transformers' defaults.
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def needs(self) -> str:
        return "cuda" if self._package[0] == "bitsandbytes" else ""

    @property
    def _package(self) -> tuple[str, str]:
        found = ((module, distribution) for pattern, module, distribution in _PACKAGES if re.search(pattern, self.name))
        return next(found, ("", ""))

    def check_machine(self) -> None:
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
        """Check the options, and reject components that drop optimizer state that the optimizer cannot create again."""
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
        """Return the optimizer. Those with 8 bits keep the moments of embeddings in 32 bits, as transformers does."""
        optimizer = self._optimizer(kernels.adamw.make_parameter_groups(model, weight_decay), lr, weight_decay)
        if self.needs and "8bit" in self.name:
            from bitsandbytes.optim import GlobalOptimManager
            from torch import nn

            for module in model.modules():
                if isinstance(module, nn.Embedding):
                    GlobalOptimManager.get_instance().register_module_override(module, "weight", {"optim_bits": 32})
        return optimizer

    def _optimizer(self, groups: list[Any], lr: float, weight_decay: float) -> Any:
        from transformers import Trainer, TrainingArguments
        from transformers.training_args import OptimizerNames

        defaults = {entry.name: entry.default for entry in TrainingArguments.__dataclass_fields__.values()}
        # Constructing TrainingArguments would select a device for the whole process.
        arguments: Any = SimpleNamespace(
            **defaults | {"optim": OptimizerNames(self.name), "learning_rate": lr, "weight_decay": weight_decay}
        )
        make, values = Trainer.get_optimizer_cls_and_kwargs(arguments)
        allowed = [name for name in inspect.signature(make).parameters if name not in ("params", "lr", "weight_decay")]
        for name in self.options:
            if name not in allowed:
                raise UnknownNameError(f"option of {self.name!r}:", name, allowed, limit=len(allowed))
        try:
            return make(groups, **values | dict(self.options))
        except (TypeError, ValueError) as error:
            raise UsageError(
                f"The optimizer {self.name!r} rejects its options {dict(self.options)}: {error}"
            ) from error
