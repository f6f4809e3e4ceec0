"""Formulas for the memory and the floating-point operations of a training. This module does not import torch.

Weights, gradients and optimizer state are exact. Gathered weights and activations are estimates: they depend on the
kernels of the model and on torch's allocator.
"""

from __future__ import annotations

from dataclasses import dataclass

#: Dense bfloat16 operations per second of an H100 SXM (NVIDIA's data sheet, without sparsity).
H100_FLOPS = 989e12
#: Fraction of these operations per second that a training achieves, as a lower and an upper value. The upper value was
#: measured by others: MPT-7B on 8 H100, texts of 8,192 tokens, sharded and with checkpointing (mosaicml/llm-foundry,
#: scripts/train/benchmarking). The lower value is an assumption for batches of one list.
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
    vocabulary: int  #: Number of tokens of the vocabulary.

    @property
    def parameters(self) -> int:
        """Number of all parameters."""
        return self.layers * self.layer + self.outside


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

    @property
    def bytes(self) -> int:
        """Number of bytes per value of the computation: 2 in bfloat16, 4 in float32."""
        return 2 if self.half else 4


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingMemory:
    """Memory of one process, in bytes."""

    weights: int  #: Frozen and trained weights that the process keeps between steps.
    gradients: int  #: Gradients of the trained weights.
    state: int  #: State of the optimizer.
    #: Estimated size of the weights of layers and embeddings while they are gathered, and of the gradients before they
    #: are distributed; 0 without sharding.
    gathered: int
    activations: int  #: Estimated size of the hidden states that are kept for the backward pass, and of the logits.

    @property
    def total(self) -> int:
        """Sum of all parts."""
        return self.weights + self.gradients + self.state + self.gathered + self.activations


def training_memory(size: ModelSize, setup: TrainingSetup) -> TrainingMemory:
    """Return the memory that a training needs in one process.

    Trained weights, gradients and optimizer state need 4 bytes per value; frozen weights need b bytes, which is 2 in
    bfloat16 and 4 in float32. N is the number of parameters of the model, N_layers the number of parameters in its
    layers, A the number of parameters of the adapter, and P the number of processes (1 without sharding).

        full fine-tuning:  weights 4 N / P,  gradients 4 N / P,  AdamW's state 8 N / P
        with adapter:      weights b (N - N_layers) + b N_layers / P + 4 A,  gradients 4 A,  AdamW's state 8 A
    """
    shares = setup.processes if setup.sharded else 1
    layers = size.layers * size.layer
    if setup.full:
        weights, parts = 4 * setup.trained // shares, shares
    else:
        weights, parts = setup.bytes * (size.outside + layers // shares) + 4 * setup.trained, 1
    return TrainingMemory(
        weights=weights,
        gradients=4 * setup.trained // parts,
        state=4 * setup.state // parts,
        gathered=_gathered_bytes(size, setup) if setup.sharded else 0,
        activations=_activation_bytes(size, setup),
    )


def _gathered_bytes(size: ModelSize, setup: TrainingSetup) -> int:
    """Return the size in bytes of gathered weights and undistributed gradients.

    Two layers are gathered at a time. In full fine-tuning, the weights outside of the layers are gathered too, and the
    gradients of one layer and of the weights outside of the layers are not yet distributed.
    """
    layers = 2 * size.layer * setup.bytes
    if not setup.full:
        return layers
    return layers + size.layer * (setup.bytes + 4) + 2 * 4 * size.outside


def _activation_bytes(size: ModelSize, setup: TrainingSetup) -> int:
    """Return the size in bytes of the activations, for attention kernels that keep no attention matrix.

    For each token, a layer keeps the residual stream and its normalised copy in float32, both twice. In the data type
    of the computation, it keeps the normalised copies, queries and keys before and after rotation, values, the outputs
    of attention, and the four hidden states of a gated feed-forward network. With checkpointing, all layers except one
    keep only their input.
    """
    kept = 16 * size.width + setup.bytes * (3 * size.width + 3 * size.query + 3 * size.key + 4 * size.inner)
    layers = 4 * size.width * size.layers + kept if setup.checkpointing else kept * size.layers
    return setup.tokens * layers + setup.outputs * size.vocabulary * (setup.bytes + 8)


def training_flops(size: ModelSize, *, length: int, tokens: int, full: bool) -> float:
    """Return the number of floating-point operations of a training.

    Recomputed activations are not counted, which is the convention for model FLOPs utilisation. Each parameter of a
    layer needs per token 2 operations in the forward pass, 2 for the gradient of the inputs, and 2 for the gradient of
    the weights if they are trained. Causal attention adds per token 6 times layers, length and width of the queries.
    Logits are computed at few positions and are not counted.

    Args:
        length: Number of tokens per text.
        tokens: Number of tokens in the whole training.
        full: True if all weights of the model are trained.
    """
    matrices = (6 if full else 4) * size.layers * size.layer
    return float(tokens) * (matrices + 6 * size.layers * length * size.query)


def h100_hours(flops: float) -> tuple[float, float]:
    """Return the shortest and the longest time that one H100 needs for the operations of a training, in hours."""
    low, high = MODEL_FLOPS_UTILISATION
    return flops / (high * H100_FLOPS) / 3600, flops / (low * H100_FLOPS) / 3600
