"""Checks of recipes that train a cross-encoder, before anything is loaded. This module imports no torch."""

from __future__ import annotations

import os
from importlib.util import find_spec

from rerank.assemble import complete_settings, plan_ranker
from rerank.errors import MissingPrerequisiteError, UsageError
from rerank.finetune.components import RecipeComponents
from rerank.finetune.recipe import MethodTable, ReadoutTable, Recipe
from rerank.methods import Method

#: The judge of the method ``cross-encoder``.
CROSS_ENCODER_JUDGE = "relate"
_BACKEND = "cross_encoder"


def method_of_recipe(recipe: Recipe) -> Method:
    """Return the reranking method that a recipe trains a model for, without loading the model."""
    return plan_ranker(complete_settings({"model": recipe.model, **dict(recipe.method)})).method


def check_cross_encoder_recipe(recipe: Recipe, components: RecipeComponents, *, backend: str) -> None:
    """Check that all settings of a recipe apply to a cross-encoder.

    Args:
        recipe: The recipe; its method ranks with a cross-encoder.
        components: The components of the recipe.
        backend: Backend of the method.
    """
    method = recipe.method.method
    if backend != _BACKEND:
        raise UsageError(
            f"method = {method!r} cannot be trained", expected="method = 'cross-encoder', whose models can be trained"
        )
    if components.adapter.shape != "full" or components.adapter.saves != "model":
        raise UsageError(
            f"adapter = {recipe.adapter.name!r} cannot be used with method = {method!r}, which trains a whole model",
            expected="the adapter full",
            remedy='Write name = "full" below [adapter]',
        )
    _check_losses(recipe, components)
    if (processes := os.environ.get("WORLD_SIZE", "1")) != "1":
        raise UsageError(
            f"method = {method!r} cannot be trained with {processes} processes",
            expected="a single process, without torchrun",
        )
    settings = {
        f"layers = {recipe.layers.name!r}" if recipe.layers else "": recipe.layers is not None,
        "the table [readout], which is about attention,": recipe.readout != ReadoutTable(),
        f"prompt = {recipe.method.prompt!r}": recipe.method.prompt != MethodTable().prompt,
        f"neftune = {recipe.training.neftune:g}": recipe.training.neftune > 0,
        "fsdp = true": recipe.training.fsdp,
    }
    if unused := [name for name, is_set in settings.items() if is_set]:
        raise UsageError(
            f"{' and '.join(unused)} cannot be used with method = {method!r}",
            expected="a recipe without settings that do not apply to cross-encoders",
        )
    if missing := [name for name in ("sentence_transformers", "datasets") if find_spec(name) is None]:
        raise MissingPrerequisiteError(
            f"Training for method = {method!r} needs packages that are not installed: {' and '.join(missing)}",
            remedy="Run: pip install 'listrank[train,cross-encoder]'",
        )


def _check_losses(recipe: Recipe, components: RecipeComponents) -> None:
    for table, loss in zip(recipe.losses, components.losses, strict=True):
        if loss.of == "tokens" or table.on not in (None, "logits"):
            on = f" with on = {table.on!r}" if table.on else ""
            raise UsageError(
                f"The loss {table.name!r}{on} cannot be used with method = {recipe.method.method!r}, which generates "
                "no text and uses no attention weights",
                expected="losses on scores without 'on', such as distill, ranknet or listnet",
                remedy="Name one of these losses in [[losses]]",
            )
