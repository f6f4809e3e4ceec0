"""The card of a trained adapter: what it is for, what it was worth, what it was trained on. Knows no files."""

from __future__ import annotations

import json
from typing import Any

from rerank.evaluation import Comparison


def card_text(saved: Any) -> str:
    """The card, in Markdown with the hub's header.

    Args:
        saved: A `rerank.finetune.trainer.adapter_folder.Saved`.
    """
    from rerank.finetune.trainer.adapter_folder import base_name

    recipe, outcome = saved.recipe, saved.outcome
    base = base_name(recipe.model)
    losses = ", ".join(f"{one.name} on {one.on}" if "on" in one.model_fields_set else one.name for one in recipe.losses)
    header = {
        "base_model": base,
        "library_name": "peft" if saved.adapter.saves == "adapter" else "transformers",
        "tags": ["reranking", "information-retrieval", "listrank"],
    }
    lines = [
        "---",
        *(f"{key}: {json.dumps(value)}" for key, value in header.items()),
        "---",
        "",
        f"# A reranker on {base}",
        "",
        f"Trained for `{recipe.method.method}` by listrank. Its folder holds the prompt, the method and the token "
        "budget, so this alone uses it as it was trained:",
        "",
        f"    rerank run --collection COLLECTION --{'adapter' if saved.adapter.saves == 'adapter' else 'model'} FOLDER",
        "",
        "## What it was worth",
        "",
        *_worth(saved.comparison, recipe),
        "",
        "## How it was trained",
        "",
        f"- Adapter: {_named(recipe.adapter)}, {outcome['trainable']:,} numbers that train",
        f"- Optimizer: {_named(recipe.optimizer)}, learning rate {recipe.optimizer.lr:g}",
        f"- Objective: {_named(recipe.objective)}"
        if recipe.objective
        else f"- Loss: {losses}; mean over the last steps {outcome['loss']:.4f}",
        f"- Lists: {saved.lists}, {recipe.data.documents} documents each at most; {outcome['steps']} steps of "
        f"{recipe.training.batch_size * recipe.training.accumulation} lists; seed {recipe.seed}",
        "",
        "The whole recipe is in `recipe.json`.",
        "",
    ]
    return "\n".join(lines)


def _named(part: Any) -> str:
    options = ", ".join(f"{key}={value}" for key, value in part.options.items())
    return f"{part.name} ({options})" if options else str(part.name)


def _worth(comparison: Comparison | None, recipe: Any) -> list[str]:
    if comparison is None:
        return ["It was not measured: the recipe has no validation collection."]
    table = recipe.validation
    rows = [f"| {run.run} | {run.mean:.4f} [{run.low:.4f}, {run.high:.4f}] |" for run in comparison.runs]
    told = [
        f"- {pair.b} against {pair.a}: {-pair.difference:+.4f}, p = {pair.p_adjusted:.4f}"
        + (" (significant)" if pair.significant else " (not significant)")
        for pair in comparison.pairs
    ]
    return [
        f"On {comparison.queries} queries of `{table.collection}`, {table.depth} candidates of {table.first_stage}. "
        "These queries chose the checkpoint, so the figures flatter it; measure it on others before you quote it.",
        "",
        f"| run | {comparison.measure} |",
        "| --- | --- |",
        *rows,
        "",
        f"Paired t-test, Holm, alpha {comparison.alpha:g}:",
        "",
        *told,
    ]
