"""Estimates of the memory and the time that a recipe needs, made without loading weights. Imports torch."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from rerank.errors import UsageError
from rerank.finetune.component_registry import make_training_components
from rerank.finetune.components import RecipeComponents, SizedOptimizer
from rerank.finetune.labels.files import open_label_records
from rerank.finetune.recipe import Recipe
from rerank.finetune.trainer.training import CROSS_ENCODER_JUDGE, method_of_recipe
from rerank.finetune.training_cost import ModelSize, TrainingSetup, h100_hours, training_flops, training_memory
from rerank.lm.loading import locate_files, named_loading_errors, pick_device, pick_dtype, quiet_transformers
from rerank.models import resolve_model_name
from rerank.tasks import BackendOptions

#: Assumed number of prompt tokens outside the passages, and number of tokens per passage for its identifiers in the
#: prompt and in the target text.
_PROMPT_TOKENS, _IDENTIFIER_TOKENS = 200, 10


def estimate_training(recipe: Recipe, *, processes: int, device: str = "auto") -> dict[str, Any]:
    """Estimate memory and time of a training, assuming that all lists are as long as the recipe permits.

    Args:
        device: Torch device; it determines the data type if the recipe sets ``dtype = "auto"``.

    Returns:
        A dictionary with ``parameters``, ``trained``, ``steps``, ``tokens_per_list`` and ``tokens`` (both upper
        bounds), ``flops``, and ``h100_hours`` (all processes together; the lowest and the highest estimate); and, in
        bytes per process, ``weights``, ``gradients``, ``state``, ``gathered``, ``activations`` and ``total``.
    """
    components, table = make_training_components(recipe), recipe.training
    if method_of_recipe(recipe).judge.name == CROSS_ENCODER_JUDGE:
        raise UsageError(
            f"The cost of method = {recipe.method.method!r} cannot be estimated, because it trains an encoder",
            expected="a recipe for a language model with a decoder",
            remedy="Omit --dry-run, and set steps = 1 in [training] to try the recipe",
        )
    has_configuration = (Path(recipe.model) / "config.json").is_file()  # weights may be missing
    model = make_empty_model(
        recipe.model if has_configuration else resolve_model_name(recipe.model),
        BackendOptions(revision=recipe.revision, trust_remote_code=recipe.trust_remote_code),
    )
    size = model_size(model)
    tokens_per_list = recipe.method.context_size or int(model.config.get_text_config().max_position_embeddings)
    if recipe.method.max_passage_tokens is not None:
        passage = recipe.method.max_passage_tokens + _IDENTIFIER_TOKENS
        tokens_per_list = min(tokens_per_list, _PROMPT_TOKENS + recipe.data.documents * passage)
    shapes = components.adapter.shapes(model)
    setup = TrainingSetup(
        full=components.adapter.shape == "full",
        trained=components.adapter.count_trainable(shapes),
        state=_count_state(components, shapes),
        processes=processes,
        sharded=table.fsdp,
        half=pick_dtype(table.dtype, pick_device(device)) == "bfloat16",
        checkpointing=table.checkpointing,
        tokens=table.batch_size * tokens_per_list,
        outputs=table.batch_size * recipe.data.documents * _IDENTIFIER_TOKENS // 2,
    )
    lists_per_step = table.batch_size * table.accumulation * processes
    steps = table.steps
    if not steps:
        lists = recipe.data.max_lists or sum(1 for path in recipe.data.lists for _ in open_label_records(path)[1])
        steps = max(1, math.ceil(table.epochs * lists / lists_per_step))
    tokens = steps * lists_per_step * tokens_per_list
    flops = training_flops(size, length=tokens_per_list, tokens=tokens, full=setup.full)
    memory = training_memory(size, setup)
    return {
        "parameters": size.parameters,
        "trained": setup.trained,
        "steps": steps,
        "tokens_per_list": tokens_per_list,
        "tokens": tokens,
        "flops": flops,
        "h100_hours": h100_hours(flops),
        **dataclasses.asdict(memory),
        "total": memory.total,
    }


def make_empty_model(name: str | Path, options: BackendOptions) -> Any:
    """Build a model from its configuration on torch's meta device, which allocates no memory for the weights."""
    files = locate_files(name, options, weights=False)
    with quiet_transformers(), named_loading_errors(files), torch.device("meta"):
        config = AutoConfig.from_pretrained(files.folder, trust_remote_code=options.trust_remote_code)
        make: Any = AutoModelForCausalLM.from_config  # has no types
        return make(config, trust_remote_code=options.trust_remote_code)


def model_size(model: Any) -> ModelSize:
    """Return the sizes of a decoder, assuming that all its layers are of the same kind."""
    config, layers = model.config.get_text_config(), getattr(model.get_decoder(), "layers", None)
    if not layers:
        raise UsageError(f"{type(model).__name__} has a decoder without layers", expected="a decoder with layers")
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    layer = sum(value.numel() for value in layers[0].parameters())
    return ModelSize(
        layers=len(layers),
        layer=layer,
        outside=sum(value.numel() for value in model.parameters()) - len(layers) * layer,
        width=config.hidden_size,
        inner=config.intermediate_size,
        query=head * config.num_attention_heads,
        key=head * getattr(config, "num_key_value_heads", config.num_attention_heads),
        vocabulary=config.vocab_size,
    )


def _count_state(components: RecipeComponents, shapes: Sequence[tuple[int, int]]) -> int:
    """Return the size of the optimizer state, given the shapes of the adapted matrices."""
    if not isinstance(components.optimizer, SizedOptimizer):
        raise UsageError(
            "The size of this optimizer's state is not known",
            expected="an optimizer of this package, such as adamw, whose state has the size of transformers' AdamW",
        )
    adapter: Any = components.adapter
    trained = shapes  # of the trained parameters
    if adapter.shape == "lora":
        trained = [shape for m, n in shapes for shape in ((adapter.r, n), (m, adapter.r))]
    elif adapter.shape != "full":
        trained = [(1, adapter.count_trainable(shapes))]
    return components.optimizer.count_state(trained)
