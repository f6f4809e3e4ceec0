"""Registries of the training components, and construction of the components that a recipe names.

Importing this module does not import torch, so an invalid recipe is rejected before a model is loaded.
"""

from __future__ import annotations

from typing import Any

from rerank.errors import UsageError
from rerank.finetune.components import (
    Adapter,
    CallbackPart,
    ListLoss,
    Objective,
    Optimizer,
    ParameterKind,
    RankAllocation,
    RecipeComponents,
    RecipeConstraint,
    TextLoss,
    TokenLoss,
)
from rerank.finetune.extra.adapters.base.peft_presets import peft_presets
from rerank.finetune.optimizers import find_transformers_optimizer
from rerank.finetune.recipe import ComponentTable, Recipe
from rerank.registry import Registry
from rerank.selector import build_from_selector_options


class AdapterRegistry(Registry):
    """Registry of adapters: plug-ins (one file each), and presets (named configurations of peft in one TOML file)."""

    def names(self) -> list[str]:
        """Return the sorted names of all plug-ins and presets."""
        return sorted({*super().names(), *peft_presets()})

    def get(self, name: str) -> Any:
        """Return the class of the plug-in or preset with this name."""
        return peft_presets().get(name.replace("-", "_")) or super().get(name)

    def is_experimental(self, name: str) -> bool:
        """Return whether an adapter is an experimental research method, as all presets of peft are."""
        return name.replace("-", "_") in peft_presets() or super().is_experimental(name)


ADAPTERS = AdapterRegistry("finetune.adapters", "adapter", experimental="finetune.extra.adapters")
OPTIMIZERS = Registry(
    "finetune.optimizers",
    "optimizer",
    experimental="finetune.extra.optimizers",
    shared={
        "finetune.optimizers": "adamw apollo galore lora_plus",
        "finetune.extra.optimizers": "dct fira gradnormlorp lora_fa lora_pro natural_galore riemannian sara",
    },
)
_LOSSES = (
    "adr_mse distill importance infonce lambdarank listmle listnet lm margin_mse ranknet reciprocal "
    "sentence_transformers"
)
LOSSES = Registry("finetune.losses", "loss", shared={"finetune.losses": _LOSSES})
# All plug-ins of these packages are experimental.
LAYERS = Registry("finetune.extra.layers", "layer sampling method", experimental="finetune.extra.layers")
CALLBACKS = Registry("finetune.extra.callbacks", "callback", experimental="finetune.extra.callbacks")
RANKS = Registry("finetune.extra.ranks", "rank allocation", experimental="finetune.extra.ranks")
OBJECTIVES = Registry("finetune.extra.objectives", "objective", experimental="finetune.extra.objectives")


def make_training_components(recipe: Recipe) -> RecipeComponents:
    """Construct the components of a recipe, and check that they can be combined."""
    adapter: Adapter = _build_training_component(ADAPTERS, recipe.adapter)
    optimizer = _build_optimizer(recipe.optimizer)
    layers: CallbackPart | None = _build_training_component(LAYERS, recipe.layers) if recipe.layers else None
    callbacks: tuple[CallbackPart, ...] = tuple(
        _build_training_component(CALLBACKS, table) for table in recipe.callbacks
    )
    ranks: RankAllocation | None = _build_training_component(RANKS, recipe.ranks) if recipe.ranks else None
    losses: tuple[TokenLoss | ListLoss | TextLoss, ...] = tuple(
        _build_training_component(LOSSES, table) for table in recipe.losses
    )
    _check_trained_parameter_kinds(recipe, adapter.shape, optimizer, layers, callbacks)
    if recipe.ranks and not hasattr(adapter, "rank_pattern"):
        raise UsageError(
            f"ranks = {recipe.ranks.name!r} cannot be used with the adapter {recipe.adapter.name!r}",
            expected="an adapter with low-rank factors, such as lora",
        )
    for table, loss in zip(recipe.losses, losses, strict=True):
        if loss.of != "scores" and table.on:
            raise UsageError(
                f"on = {table.on!r} is set for the loss {table.name!r}",
                expected=f"no 'on', because this loss is computed from {loss.of}, not from scores",
            )
    objective: Objective | None = _build_training_component(OBJECTIVES, recipe.objective) if recipe.objective else None
    if objective:
        objective.check(recipe, adapter)
    for component in (adapter, optimizer, *losses):
        if isinstance(component, RecipeConstraint):
            component.check_recipe(recipe)
    if recipe.training.fsdp:
        _check_weight_sharding(recipe, adapter, optimizer)
    return RecipeComponents(
        adapter=adapter,
        optimizer=optimizer,
        layers=layers,
        callbacks=callbacks,
        ranks=ranks,
        losses=losses,
        objective=objective,
    )


def _build_optimizer(table: ComponentTable) -> Optimizer:
    if table.name in OPTIMIZERS:
        optimizer: Optimizer = _build_training_component(OPTIMIZERS, table)
        return optimizer
    own = [name.replace("_", "-") for name in OPTIMIZERS.names()]
    return find_transformers_optimizer(table.name, table.options, own=own)


def _build_training_component(registry: Registry, table: ComponentTable) -> Any:
    return build_from_selector_options(registry, table.name, table.options)


def _check_trained_parameter_kinds(
    recipe: Recipe,
    kind: ParameterKind,
    optimizer: Optimizer,
    layers: CallbackPart | None,
    callbacks: tuple[CallbackPart, ...],
) -> None:
    """Check that optimizer, layer sampling and callbacks support the kind of parameters that the adapter trains."""
    components: list[tuple[str, Optimizer | CallbackPart]] = [(f"The optimizer {recipe.optimizer.name!r}", optimizer)]
    if recipe.layers and layers:
        components.append((f"layers = {recipe.layers.name!r}", layers))
    for table, callback in zip(recipe.callbacks, callbacks, strict=True):
        components.append((f"The callback {table.name!r}", callback))
    for name, component in components:
        if kind not in component.fits:
            raise UsageError(
                f"{name} cannot be used with the adapter {recipe.adapter.name!r}. {component.reason}",
                expected=f"an adapter that trains parameters of the kind {', '.join(sorted(component.fits))}",
                remedy="`rerank methods --training` shows what each adapter trains",
            )


def _check_weight_sharding(recipe: Recipe, adapter: Adapter, optimizer: Optimizer) -> None:
    """With ``fsdp``, reject components that need whole weights or gradients: each process holds only a part of them."""
    setting = f"fsdp = true cannot be used with the adapter {recipe.adapter.name!r}"
    frozen = "full, or an adapter that leaves the base model unchanged, such as lora, rslora or dora"
    if recipe.objective:
        raise UsageError(
            f"fsdp = true cannot be used with the objective {recipe.objective.name!r}, in which every process "
            "generates its own texts",
            expected="losses instead of an objective, because all processes have to run each layer equally often",
        )
    if adapter.moves_base or (adapter.shape == "full") != (adapter.saves == "model"):
        raise UsageError(f"{setting}, which changes or saves the weights of the base model", expected=frozen)
    if adapter.shape == "full" and not getattr(optimizer, "elementwise", False):
        raise UsageError(
            f"{setting} together with the optimizer {recipe.optimizer.name!r}, which may need whole matrices",
            expected="an optimizer that is known to update each entry of a matrix separately, such as adamw",
        )
    if adapter.shape == "full" and (recipe.layers or recipe.callbacks):
        raise UsageError(
            f"{setting} together with layers or callbacks",
            expected="neither layers nor callbacks, because all weights are trained in every step",
        )
    if adapter.needs:
        raise UsageError(f"{setting}, whose base model is quantised to 4 bits", expected=frozen)
