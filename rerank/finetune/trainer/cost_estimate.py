"""Estimates of the memory and the time that a recipe needs, made without loading weights. Imports torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig

from rerank.errors import UsageError
from rerank.finetune.component_registry import CROSS_ENCODER_JUDGE, make_training_components, method_of_recipe
from rerank.finetune.components import RecipeComponents, SizedOptimizer
from rerank.finetune.labels.files import open_label_records
from rerank.finetune.recipe import ComponentTable, Recipe
from rerank.lm.loading import locate_files, named_loading_errors, pick_device, pick_dtype, quiet_transformers
from rerank.lm.memory import USABLE, make_empty_model
from rerank.models import resolve_model_name
from rerank.tasks import BackendOptions

#: Assumed number of prompt tokens outside the passages, and number of tokens per passage for its identifiers in the
#: prompt and in the target text.
_PROMPT_TOKENS, _IDENTIFIER_TOKENS = 200, 10

#: Dense bfloat16 operations per second of an H100 SXM (NVIDIA's data sheet, without sparsity).
H100_FLOPS = 989e12
#: Fraction of these operations that a training achieves. The upper value was measured by others: MPT-7B on 8 H100,
#: texts of 8,192 tokens, sharded and with checkpointing (mosaicml/llm-foundry, scripts/train/benchmarking). The lower
#: value is an assumption for batches of one list.
MODEL_FLOPS_UTILISATION = (0.2, 0.37)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSize:
    """Sizes of a decoder, for the formulas of memory and operations."""

    layers: int  #: Number of layers.
    layer: int  #: Number of parameters of one layer.
    #: Number of parameters outside of the layers: embeddings, final norm, and the output matrix unless it is tied to
    #: the embeddings.
    outside: int
    width: int  #: Size of the hidden states.
    inner: int  #: Size of the hidden states of the feed-forward network.
    query: int  #: Number of query heads times the head size.
    key: int  #: Number of key heads times the head size.
    normed: int  #: Size of the queries and keys that have a norm of their own, as in Qwen3; 0 if they have none.
    inputs: int  #: Total input size of the linear modules of one layer.
    vocabulary: int  #: Number of tokens of the vocabulary.


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingSetup:
    """Settings of a training that determine its memory."""

    full: bool  #: True if all weights of the model are trained; False if they are frozen and an adapter is trained.
    trained: int  #: Number of trained parameters.
    state: int  #: Number of values in the optimizer state, without step counters.
    processes: int  #: Number of processes, each with one GPU.
    sharded: bool  #: True if weights are sharded over the processes (``fsdp = true``).
    half: bool  #: True if the computation is in bfloat16, False if it is in float32.
    checkpointing: bool  #: True if activations are recomputed in the backward pass.
    tokens: int  #: Number of tokens per batch.
    outputs: int  #: Number of tokens per batch whose logits a loss uses.
    inputs: int  #: Total input size of the trained or adapted linear modules of one layer.
    dropout: bool = False  #: True if these inputs have dropout.

    @property
    def bytes(self) -> int:
        return 2 if self.half else 4


def estimate_training(recipe: Recipe, *, processes: int, device: str = "auto") -> dict[str, Any]:
    """Estimate memory and time of a training, assuming that all lists are as long as the recipe permits.

    ``device`` determines the data type if the recipe sets ``dtype = "auto"``. ``tokens_per_list`` and ``tokens`` are
    upper bounds; ``h100_hours`` are the lowest and the highest estimate for all processes together; ``cards`` are the
    rows of `_plan_cards`, which do not depend on ``processes``.
    """
    components, table = make_training_components(recipe), recipe.training
    if method_of_recipe(recipe).judge.name == CROSS_ENCODER_JUDGE:
        raise UsageError(
            f"The cost of method = {recipe.method.method!r} cannot be estimated, because it trains an encoder",
            expected="a recipe for a language model with a decoder",
            remedy="Omit --dry-run, and set steps = 1 in [training] to try the recipe",
        )
    has_configuration = (Path(recipe.model) / "config.json").is_file()  # weights may be missing
    name = recipe.model if has_configuration else resolve_model_name(recipe.model)
    options = BackendOptions(revision=recipe.revision, trust_remote_code=recipe.trust_remote_code)
    files = locate_files(name, options, weights=False)
    with quiet_transformers(), named_loading_errors(files):
        config = AutoConfig.from_pretrained(files.folder, trust_remote_code=options.trust_remote_code)
        model = make_empty_model(config, (), auto="AutoModelForCausalLM", code=options.trust_remote_code)
    size = model_size(model)
    tokens_per_list = recipe.method.context_size or int(model.config.get_text_config().max_position_embeddings)
    if recipe.method.max_passage_tokens is not None:
        passage = recipe.method.max_passage_tokens + _IDENTIFIER_TOKENS
        tokens_per_list = min(tokens_per_list, _PROMPT_TOKENS + recipe.data.documents * passage)
    setup = replace(
        _setup(recipe, components, model, size, tokens_per_list),
        processes=processes,
        half=pick_dtype(table.dtype, pick_device(device), training=True) == "bfloat16",
    )
    lists_per_step = table.batch_size * table.accumulation * processes
    if not (steps := table.steps):
        lists = recipe.data.max_lists or sum(1 for path in recipe.data.lists for _ in open_label_records(path)[1])
        steps = max(1, math.ceil(table.epochs * lists / lists_per_step))
    tokens = steps * lists_per_step * tokens_per_list
    flops = training_flops(size, length=tokens_per_list, tokens=tokens, full=setup.full)
    return {
        "parameters": size.layers * size.layer + size.outside,
        "trained": setup.trained,
        "steps": steps,
        "tokens_per_list": tokens_per_list,
        "tokens": tokens,
        "flops": flops,
        "h100_hours": h100_hours(flops),
        **training_memory(size, setup),
        "cards": _plan_cards(recipe, model, size, tokens_per_list),
    }


def _setup(
    recipe: Recipe, components: RecipeComponents, model: Any, size: ModelSize, tokens_per_list: int
) -> TrainingSetup:
    table, shapes = recipe.training, components.adapter.shapes(model)
    full = components.adapter.shape == "full"
    return TrainingSetup(
        full=full,
        trained=components.adapter.count_trainable(shapes),
        state=_count_state(components, shapes),
        processes=1,
        sharded=table.fsdp,
        half=table.dtype != "float32",
        checkpointing=table.checkpointing,
        tokens=table.batch_size * tokens_per_list,
        outputs=table.batch_size * recipe.data.documents * _IDENTIFIER_TOKENS // 2,
        inputs=size.inputs if full else sum(n for _, n in shapes) // size.layers,
        dropout=bool(getattr(components.adapter, "dropout", 0)),
    )


def _plan_cards(recipe: Recipe, model: Any, size: ModelSize, length: int) -> list[dict[str, Any]]:
    """Plan the training of a recipe, and the same with LoRA or of all weights, on one and on eight of several GPUs.

    Each row has the fastest of the settings ``fsdp`` and ``checkpointing`` that fit, by `step_seconds`, with 0.9 of the
    memory of the GPU; if none fits, that which needs the least memory.
    """
    table = recipe.training
    setups: dict[str, tuple[TrainingSetup, list[bool]]] = {}  # with the values of fsdp that are possible
    other = ComponentTable(name="lora" if recipe.adapter.name == "full" else "full")
    changes: dict[str, Any] = {"ranks": None, "layers": None, "callbacks": ()}
    for changed in (recipe, recipe.model_copy(update={**changes, "adapter": other})):
        for sharded in (False, True):
            asked = changed.model_copy(update={"training": table.model_copy(update={"fsdp": sharded})})
            with suppress(UsageError):  # an adapter that cannot be sharded, or that the optimizer does not train
                setup = _setup(asked, make_training_components(asked), model, size, length)
                setups.setdefault(changed.adapter.name, (setup, []))[1].append(sharded)
    rows, linked = [], [card for card in CARDS if card.link]
    for card, cards, (adapter, (setup, shards)) in product(linked, (1, 8), setups.items()):
        tried: list[tuple[bool, float, int, dict[str, Any]]] = []
        for sharded, checkpointing in product(shards if cards > 1 else [False], (False, True)):
            chosen = replace(setup, processes=cards, sharded=sharded, checkpointing=checkpointing)
            memory = training_memory(size, chosen)
            seconds = step_seconds(size, chosen, card, length=length, batches=table.accumulation)
            step = max(seconds.values())
            fits = memory["total"] <= USABLE * card.memory * 2**30
            row = {"card": card.name, "cards": cards, "adapter": adapter, "fsdp": sharded}
            row |= {"checkpointing": checkpointing, "fits": fits, "memory": memory, "seconds": seconds}
            row |= {"steps_per_hour": 3600 / step}
            row |= {"lists_per_hour": 3600 / step * table.batch_size * table.accumulation * cards}
            tried.append((not fits, step if fits else memory["total"], len(tried), row))
        rows.append(min(tried)[-1])
    return rows


def step_seconds(size: ModelSize, setup: TrainingSetup, card: Card, *, length: int, batches: int) -> dict[str, float]:
    """Return the least number of seconds of an optimizer step of ``batches`` batches, by what limits it.

    The step takes at least the longest of them (the roofline model). With N, N_layers, A, b and P as in
    `training_memory`, T trained values, S values of optimizer state, t tokens per batch and n batches:

        operations:  n (`training_flops` of t tokens; with checkpointing, those of a forward pass again), at the peak
        memory:      n ((2, with checkpointing 3) b N + 2 activations) + 4 (3 T + 2 S) / P, at its bandwidth
        link:        n 2 b N_layers (P - 1) / P with fsdp, and gradients: n 4 N (P - 1) / P in full training with fsdp,
                     otherwise once 8 T (P - 1) / P; at the bandwidth between GPUs
    """
    layers, again, parts = size.layers * size.layer, setup.checkpointing, setup.processes
    flops = training_flops(size, length=length, tokens=setup.tokens, full=setup.full)
    flops += again * setup.tokens * 2 * (layers + size.layers * length * size.query)
    is_divided = setup.full and setup.sharded
    moved = (2 + again) * setup.bytes * (layers + size.outside) + 2 * training_memory(size, setup)["activations"]
    updated = 4 * (3 * setup.trained + 2 * setup.state) // (parts if is_divided else 1)
    sent = setup.sharded * batches * 2 * setup.bytes * layers
    sent += batches * 4 * setup.trained if is_divided else 8 * setup.trained
    return {
        "operations": batches * flops / card.peak,
        "memory": (batches * moved + updated) / card.bandwidth,
        "link": sent * (parts - 1) / parts / card.link,
    }


def model_size(model: Any) -> ModelSize:
    """Return the sizes of a decoder, assuming that all its layers are of the same kind."""
    config, layers = model.config.get_text_config(), getattr(model.get_decoder(), "layers", None)
    if not layers:
        raise UsageError(f"{type(model).__name__} has a decoder without layers", expected="a decoder with layers")
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    layer = sum(value.numel() for value in layers[0].parameters())
    key_heads = getattr(config, "num_key_value_heads", None) or int(config.num_attention_heads)
    query, key = head * config.num_attention_heads, head * key_heads
    return ModelSize(
        layers=len(layers),
        layer=layer,
        outside=sum(value.numel() for value in model.parameters()) - len(layers) * layer,
        width=config.hidden_size,
        inner=config.intermediate_size,
        query=query,
        key=key,
        normed=query + key if any(name.endswith("q_norm") for name, _ in layers[0].named_modules()) else 0,
        inputs=sum(module.in_features for module in layers[0].modules() if isinstance(module, torch.nn.Linear)),
        vocabulary=config.vocab_size,
    )


def _count_state(components: RecipeComponents, shapes: Sequence[tuple[int, int]]) -> int:
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
        # Other adapters train vectors or small blocks, whose shapes are not stated; they are counted as one vector.
        trained = [(1, adapter.count_trainable(shapes))]
    return components.optimizer.count_state(trained)


def training_memory(size: ModelSize, setup: TrainingSetup) -> dict[str, int]:
    """Return the memory that a training needs in one process, in bytes, by its parts, and their ``total``.

    Trained weights, gradients and optimizer state need 4 bytes per value; frozen weights need b bytes, which is 2 in
    bfloat16 and 4 in float32. N is the number of parameters of the model, N_layers the number of parameters in its
    layers, A the number of parameters of the adapter, and P the number of processes (1 without sharding).

        full fine-tuning:  weights 4 N / P,  gradients 4 N / P,  AdamW's state 8 N / P
        with adapter:      weights b (N - N_layers) + b N_layers / P + 4 A,  gradients 4 A,  AdamW's state 8 A

    These are exact. ``gathered`` and ``activations`` are estimates: they depend on the kernels of the model and on
    torch's allocator. ``gathered`` are the layers that all processes gather, or without sharding, in bfloat16, the
    copies of trained weights that autocast keeps until the backward pass.

    For each token, a layer keeps for its backward pass, with w, q, k and f as the sizes of hidden states, queries, keys
    and feed-forward network, and n as the total input size of its trained or adapted modules:

        float32:  2 w (inputs of norms);  q + k if queries and keys have norms;  2 w (normalised inputs) if w is trained
        b bytes:  2 q + 2 k (queries, outputs; keys, values);  3 f (gate, its activation, up);  n

    In float32, keys and values are repeated per query head, since no fused kernel of GPUs groups heads: 4 q. In
    bfloat16, n counts every module, since autocast copies the input for each; in float32 modules share inputs.
    """
    shares = setup.processes if setup.sharded else 1
    layers = size.layers * size.layer
    if setup.full:
        weights, parts = 4 * setup.trained // shares, shares
    else:
        weights, parts = setup.bytes * (size.outside + layers // shares) + 4 * setup.trained, 1
    # Two layers are gathered at a time. In full fine-tuning, the weights outside of the layers are gathered too, and
    # the gradients of one layer and of the weights outside of the layers are not yet distributed.
    gathered = 2 * size.layer * setup.bytes if setup.sharded else 2 * setup.trained * setup.half
    if setup.sharded and setup.full:
        gathered += size.layer * (setup.bytes + 4) + 2 * 4 * size.outside
    # Attention kernels keep no attention matrix, but the mask of dropout has a byte per input. With checkpointing, all
    # layers except one keep only their input. The backward pass of a feed-forward network adds about 12 f.
    inputs = setup.inputs if setup.half else min(setup.inputs, 2 * size.width + size.query + size.inner)
    heads = 2 * (size.query + (size.key if setup.half else size.query))
    kept = 8 * size.width + 4 * size.normed + setup.bytes * (heads + 3 * size.inner + inputs)
    kept += (8 * size.width + setup.bytes * size.normed) * setup.full + setup.inputs * setup.dropout
    kept_by_layers = kept * size.layers
    if setup.checkpointing:
        kept_by_layers = (4 if setup.full else setup.bytes) * size.width * size.layers + kept
    kept_by_layers += 12 * size.inner
    memory = {
        "weights": weights,
        "gradients": 4 * setup.trained // parts,
        "state": 4 * setup.state // parts,
        "gathered": gathered,
        "activations": setup.tokens * kept_by_layers + setup.outputs * size.vocabulary * (setup.bytes + 8),
    }
    return memory | {"total": sum(memory.values())}


def training_flops(size: ModelSize, *, length: int, tokens: int, full: bool) -> float:
    """Return the number of floating-point operations of a training.

    Each parameter of a layer needs per token 2 operations in the forward pass, 2 for the gradient of the inputs, and 2
    for that of the weights with ``full``. Causal attention adds per token 6 times layers, ``length`` of the texts and
    width of the queries. Recomputed activations (by convention) and the few logits are not counted.
    """
    return float(tokens) * ((6 if full else 4) * size.layers * size.layer + 6 * size.layers * length * size.query)


def h100_hours(flops: float) -> tuple[float, float]:
    """Return the shortest and the longest time that one H100 needs for the operations of a training, in hours."""
    low, high = MODEL_FLOPS_UTILISATION
    return flops / (high * H100_FLOPS) / 3600, flops / (low * H100_FLOPS) / 3600


@dataclass(frozen=True, slots=True)
class Card:
    """A GPU, with its peaks."""

    name: str
    memory: int  # in GiB
    peak: float  # operations per second in bfloat16, without sparsity
    bandwidth: float  # bytes per second of its memory
    link: float = 0  # bytes per second to other GPUs of the machine, in one direction


#: Peaks and bandwidths of NVIDIA's data sheets (nvidia.com/en-us/data-center/: l4, l40s, h100; half of the peak "with
#: sparsity"; half of the bandwidth of PCIe 4 x16 and NVLink in both directions), and the bandwidth that Apple states
#: (apple.com/mac-studio/specs). Apple states no peak: 28.4e12 assumes that each of 80 cores does 256 operations of 32
#: bits per cycle at 1.38 GHz.
CARDS = (
    Card("L4, 24 GB", 24, 121e12, 300e9, 32e9),
    Card("L40S, 48 GB", 48, 362e12, 864e9, 32e9),
    Card("H100 SXM, 80 GB", 80, 989e12, 3350e9, 450e9),
    Card("M3 Ultra, 96 GB (MPS)", 72, 28.4e12, 819e9),
)
