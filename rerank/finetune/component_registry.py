"""Registries of the training components, and construction of the components that a recipe names.

Importing this module does not import torch, so an invalid recipe is rejected before a model is loaded.
"""

from collections.abc import Mapping
from typing import Any

from rerank.assemble import complete_settings, plan_ranker
from rerank.errors import UsageError
from rerank.finetune.components import Adapter, Optimizer, RecipeComponents, read_methods
from rerank.finetune.optimizers import find_transformers_optimizer
from rerank.finetune.recipe import ComponentTable, Recipe
from rerank.methods import Method
from rerank.registry import Registry
from rerank.selector import build_from_selector_options

#: The judge of the method ``cross-encoder``.
CROSS_ENCODER_JUDGE = "relate"
#: The plug-ins of the modules that have many. Everything below ``extra`` is experimental.
_LOSSES = (
    "adr_mse distill importance infonce lambdarank listmle listnet lm margin_mse ranknet reciprocal "
    "sentence_transformers"
)
_EXTRA_ADAPTERS = "adalora lift loldu lora_ga lora_sb lora_xs lr_qat pissa salt shadow lokr oft osf randlora vera"
_EXTRA_OPTIMIZERS = "dct fira gradnormlorp lora_fa lora_pro natural_galore riemannian sara"


def _experimental(package: str, kind: str, names: str) -> Registry:
    return Registry(package, kind, experimental=package, shared={package: names})


ADAPTERS = Registry(
    "finetune.adapters",
    "adapter",
    experimental="finetune.extra.adapters",
    shared={"finetune.adapters": "dora full lora peft qlora rslora", "finetune.extra.adapters": _EXTRA_ADAPTERS},
)
OPTIMIZERS = Registry(
    "finetune.optimizers",
    "optimizer",
    experimental="finetune.extra.optimizers",
    shared={"finetune.optimizers": "adamw apollo galore lora_plus", "finetune.extra.optimizers": _EXTRA_OPTIMIZERS},
)
LOSSES = Registry("finetune.losses", "loss", shared={"finetune.losses": _LOSSES})
LAYERS = _experimental("finetune.extra.layers", "layer sampling method", "lisa owlore")
CALLBACKS = _experimental("finetune.extra.callbacks", "callback", "refactor")
RANKS = _experimental("finetune.extra.ranks", "rank allocation", "contribution welore")
OBJECTIVES = _experimental("finetune.extra.objectives", "objective", "grpo")


def make_training_components(recipe: Recipe) -> RecipeComponents:
    """Construct the components of a recipe, and check that they can be combined."""
    components = RecipeComponents(
        adapter=_build(ADAPTERS, recipe.adapter),
        optimizer=_build(OPTIMIZERS, recipe.optimizer),
        layers=_build(LAYERS, recipe.layers),
        callbacks=tuple(_build(CALLBACKS, table) for table in recipe.callbacks),
        ranks=_build(RANKS, recipe.ranks),
        losses=tuple(_build(LOSSES, table) for table in recipe.losses),
        objective=_build(OBJECTIVES, recipe.objective),
    )
    adapter: Adapter = components.adapter
    _check_parameter_kinds(recipe, components)
    if recipe.ranks and not hasattr(adapter, "rank_pattern"):
        raise UsageError(
            f"ranks = {recipe.ranks.name!r} cannot be used with the adapter {recipe.adapter.name!r}",
            expected="an adapter with low-rank factors, such as lora",
        )
    for table, loss in zip(recipe.losses, components.losses, strict=True):
        if loss.of != "scores" and table.on:
            raise UsageError(
                f"on = {table.on!r} is set for the loss {table.name!r}",
                expected=f"no 'on', because this loss is computed from {loss.of}, not from scores",
            )
    if components.objective:
        components.objective.check(recipe, adapter)
    for component in (adapter, components.optimizer, *components.losses):
        if hasattr(component, "check_recipe"):
            component.check_recipe(recipe)
    if recipe.training.fsdp:
        _check_weight_sharding(recipe, adapter, components.optimizer)
    return components


def method_of_recipe(recipe: Recipe) -> Method:
    """Return the reranking method that a recipe trains a model for, without loading the model."""
    return plan_ranker(complete_settings({"model": recipe.model, **dict(recipe.method)})).method


def _build(registry: Registry, table: ComponentTable | None) -> Any:
    if registry is OPTIMIZERS and table and table.name not in OPTIMIZERS:
        own = [name.replace("_", "-") for name in OPTIMIZERS.names()]
        return find_transformers_optimizer(table.name, table.options, own=own)
    return table and build_from_selector_options(registry, table.name, table.options)


def _check_parameter_kinds(recipe: Recipe, components: RecipeComponents) -> None:
    named: list[tuple[str, Any]] = [(f"The optimizer {recipe.optimizer.name!r}", components.optimizer)]
    if recipe.layers:
        named.append((f"layers = {recipe.layers.name!r}", components.layers))
    for table, callback in zip(recipe.callbacks, components.callbacks, strict=True):
        named.append((f"The callback {table.name!r}", callback))
    for name, component in named:
        if components.adapter.shape not in component.fits:
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


#: Registries of each kind of method, in the order of the table.
KIND_REGISTRIES: Mapping[str, tuple[Registry, ...]] = {
    "adapter": (ADAPTERS,),
    "optimizer": (OPTIMIZERS,),
    "layers": (LAYERS,),
    "callback": (CALLBACKS,),
    "objective": (LOSSES, OBJECTIVES),
    "analysis": (RANKS,),
}
KEYS = ("name", "kind", "status", "stability", "summary", "paper", "differs", "reason")
STATUSES = ("available", "out-of-scope")
STABILITIES = ("stable", "experimental")
#: Common adapters, which come first in the table: all tools can load them, and they need no data and no further steps.
USUAL_ADAPTERS = ("lora", "dora", "rslora", "qlora", "full")


def describe_training_methods() -> list[dict[str, str]]:
    """Return one row per component, and one row per paper that is not implemented by a component.

    Rows are sorted by kind (a key of `KIND_REGISTRIES`), status (one of `STATUSES`), stability (one of `STABILITIES`,
    empty if not implemented) and name; `USUAL_ADAPTERS` come first. ``summary`` is one line, ``paper`` is empty for
    common knowledge, ``differs`` says how the implementation differs from the paper, and ``reason`` why a method is not
    implemented, with the name of the closest one.
    """
    rows = []
    for kind, registries in KIND_REGISTRIES.items():
        for name, component in training_components_of_kind(kind).items():
            row = {key: str(getattr(component, key, "")) for key in ("summary", "paper", "differs")}
            # The kind of trained parameters determines the possible optimizers. That of `peft` depends on its options.
            if isinstance(shape := getattr(component, "shape", None), str):
                row["summary"] += f" (trains: {shape})"
            stability = "experimental" if any(registry.is_experimental(name) for registry in registries) else "stable"
            rows.append({"name": name, "kind": kind, "status": "available", "stability": stability, **row})
    known = {(row["name"], row["kind"]) for row in rows}
    for paper in read_methods()["papers"]:
        # If a paper in the file has a component by now, the component describes it.
        if (paper["name"], paper["kind"]) not in known:
            rows.append({"stability": "stable" if paper["status"] == "available" else "", **paper})
    return sorted(({key: row.get(key, "") for key in KEYS} for row in rows), key=_order)


def _order(row: Mapping[str, str]) -> tuple[Any, ...]:
    rank = USUAL_ADAPTERS.index(row["name"]) if row["name"] in USUAL_ADAPTERS else len(USUAL_ADAPTERS)
    is_experimental = row["stability"] == "experimental"
    return list(KIND_REGISTRIES).index(row["kind"]), row["status"], is_experimental, rank, row["name"]


def training_components_of_kind(kind: str) -> dict[str, Any]:
    """Return the loadable components of one kind by their names in recipes."""
    return {
        name.replace("_", "-"): component
        for registry in KIND_REGISTRIES[kind]
        for name, component in registry.usable().items()
    }
