"""The model card of a trained adapter: its use, its validation results, and how it was trained."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rerank.evaluation import Comparison
from rerank.evaluation.tables import format_p_value
from rerank.finetune.recipe import ComponentTable, Recipe
from rerank.io.model_base import ModelBase
from rerank.models import MODELS


@dataclass(frozen=True, kw_only=True)
class AdapterDescription:
    """All information from which the files of an adapter folder are written, except the weights.

    Attributes:
        recipe: The recipe that was trained.
        setup: The `rerank.assemble.RankerSetup` for the method named in the recipe.
        adapter: The adapter component.
        readout: The weights of attention heads, an `AttentionScorer`; None if no loss uses attention.
        identity: Identity of the base model, as its backend reports it.
        base: The base model if its id on the hub is known, else None.
        tokenizer: The tokenizer; it is also saved if the folder contains a complete model.
        lists: Number of training lists.
        outcome: Results of the training, with the fields of ``result.json``.
        comparison: Comparison of first stage, untrained model and trained model on the validation queries; None without
            validation.
    """

    recipe: Recipe
    setup: Any
    adapter: Any
    readout: Any
    identity: dict[str, str]
    base: ModelBase | None
    tokenizer: Any
    lists: int
    outcome: dict[str, Any]
    comparison: Comparison | None


def base_model_name_for_card(model: str) -> str:
    """Return the hub id of a base model whose name `rerank models` lists; return any other name unchanged."""
    return MODELS[model].hub_id if model in MODELS else model


def render_adapter_card(description: AdapterDescription) -> str:
    """Return the model card in Markdown, with the metadata header that the Hugging Face hub reads."""
    recipe, outcome = description.recipe, description.outcome
    is_adapter = description.adapter.saves == "adapter"
    library = "peft" if is_adapter else "transformers"
    if description.setup.method.backend == "cross_encoder":
        library = "sentence-transformers"
    base = base_model_name_for_card(recipe.model)
    losses = ", ".join(
        f"{loss.name} on {loss.on}" if "on" in loss.model_fields_set else loss.name for loss in recipe.losses
    )
    header = {
        "base_model": base,
        "library_name": library,
        "tags": ["reranking", "information-retrieval", "listrank"],
    }
    lines = [
        "---",
        *(f"{key}: {json.dumps(value)}" for key, value in header.items()),
        "---",
        "",
        f"# A reranker based on {base}",
        "",
        f"Trained with listrank for the method `{recipe.method.method}`. The folder contains the prompt, the method "
        "and the token budget of the training, so this command is sufficient to use it:",
        "",
        f"    rerank run --collection COLLECTION --{'adapter' if is_adapter else 'model'} FOLDER",
        "",
        "## Results",
        "",
        *_validation_results_of_card(description.comparison, recipe),
        "",
        "## Training",
        "",
        f"- Adapter: {_component_with_options(recipe.adapter)}, {outcome['trainable']:,} trained parameters",
        f"- Optimizer: {_component_with_options(recipe.optimizer)}, learning rate {recipe.optimizer.lr:g}",
        f"- Objective: {_component_with_options(recipe.objective)}"
        if recipe.objective
        else f"- Loss: {losses}; mean over the last steps {outcome['loss']:.4f}",
        f"- Lists: {description.lists}, with at most {recipe.data.documents} documents each; {outcome['steps']} steps "
        f"of {recipe.training.batch_size * recipe.training.accumulation} lists; seed {recipe.seed}",
        *_held_out_loss_of_card(outcome),
        *(f"- Data set: `{selector}`" for selector in outcome.get("datasets", {}).values()),
        "",
        "`recipe.json` holds the complete recipe.",
        "",
    ]
    return "\n".join(lines)


def _component_with_options(component: ComponentTable) -> str:
    options = ", ".join(f"{key}={value}" for key, value in component.options.items())
    return f"{component.name} ({options})" if options else component.name


def _held_out_loss_of_card(outcome: Mapping[str, Any]) -> list[str]:
    value = outcome["validation"].get("held-out loss")
    return [] if value is None else [f"- Loss on held-out lists: {value:.4f}"]


def _validation_results_of_card(comparison: Comparison | None, recipe: Recipe) -> list[str]:
    table = recipe.validation
    if comparison is None or table is None:
        return ["Not measured: the recipe has no validation collection."]
    rows = [f"| {run.run} | {run.mean:.4f} [{run.low:.4f}, {run.high:.4f}] |" for run in comparison.runs]
    differences = [
        f"- {pair.b} against {pair.a}: {-pair.difference:+.4f}, p = {format_p_value(pair.p_adjusted)}"
        + (" (significant)" if pair.significant else " (not significant)")
        for pair in comparison.pairs
    ]
    note = (
        " The checkpoint was selected on these queries, so the values are optimistic; report results on other queries"
    )
    return [
        f"On {comparison.queries} queries of `{table.collection}`, with {table.depth} candidates of "
        f"{table.first_stage}.{'' if table.measure == 'loss' else f'{note}.'}",
        "",
        f"| run | {comparison.measure} |",
        "| --- | --- |",
        *rows,
        "",
        f"Paired t-test, Holm correction, significance level {comparison.alpha:g}:",
        "",
        *differences,
    ]
