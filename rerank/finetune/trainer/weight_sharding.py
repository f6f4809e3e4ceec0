"""Sharding of the weights of a model over processes with torch's FSDP2. Imports torch.

With an adapter, only the frozen weights of the layers are sharded. Trained parameters are small, so every process holds
all of them, and optimizers and checkpoints work in the same way as without sharding. In full fine-tuning, all weights
are trained; then weights, gradients and optimizer state are all sharded.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from rerank.errors import UsageError
from rerank.finetune.trainer.base_model import unwrap_adapted_model
from rerank.finetune.trainer.listwise_module import ListwiseModule


def shard_weights(module: ListwiseModule, kept: Collection[str], device: str, dtype: str) -> None:
    """Shard all weights of a model in full fine-tuning; otherwise shard only the frozen weights of its layers.

    A layer is gathered for its forward and backward pass, and resharded afterwards. After this call, whenever one
    process runs the model, all processes have to run it. Trained weights keep their data type, float32; the layers are
    gathered in the data type of the computation, and gradients are summed in float32.

    Args:
        module: The module with the adapter attached, on the CPU or on the device.
        kept: Names of the tensors in checkpoints; they are not sharded unless all weights are.
        device: Torch device of this process, to which the module is moved.
        dtype: Data type of the computation: ``float32`` or ``bfloat16``.
    """
    model = unwrap_adapted_model(module.model)
    layers = getattr(model.get_decoder(), "layers", None)
    if layers is None:
        raise UsageError(
            f"fsdp = true cannot be used with {type(model).__name__}, whose decoder has no attribute 'layers'",
            expected="a decoder with an attribute 'layers'",
            remedy="Remove fsdp",
        )
    mesh = init_device_mesh(torch.device(device).type, (int(os.environ["WORLD_SIZE"]),))
    if trains_whole_model(module):
        module.gather_model = ModelGatherer(model)
        # Inputs of layers are not cast: as in a single process under autocast, the residual stream stays in float32.
        policy = MixedPrecisionPolicy(
            param_dtype=getattr(torch, dtype), reduce_dtype=torch.float32, cast_forward_inputs=False
        )
        for layer in layers:
            fully_shard(layer, mesh=mesh, mp_policy=policy)
        fully_shard(model, mesh=mesh)  # embeddings, final norm and output matrix, which may be tied
    else:
        whole = {value for name, value in module.named_parameters() if name in kept}
        for layer in layers:
            # An adapter may have wrapped the layer in a module whose inputs and outputs are objects of peft, in which
            # torch finds no tensors to wait for. The wrapped layer inside this module contains the frozen weights.
            inner = getattr(layer, "base_layer", layer)
            # torch treats each layer as a root module; root modules keep gathered weights without
            # reshard_after_forward.
            fully_shard(inner, mesh=mesh, reshard_after_forward=True, ignored_params=whole & set(inner.parameters()))
    module.to(device)
    module.is_sharded = True


def trains_whole_model(module: ListwiseModule) -> bool:
    """Return whether all weights of the model are trained."""
    return all(value.requires_grad for value in module.model.parameters())


def reshard_weights(module: nn.Module) -> None:
    """Free the weights that are still gathered.

    Weights stay gathered after a forward pass without a backward pass. They also stay gathered after a judge has used
    attention weights, because this judge stops the model inside the last layer that it needs.
    """
    for submodule in module.modules():
        if isinstance(submodule, FSDPModule):
            submodule.reshard()


def average_replicated_gradients(module: ListwiseModule) -> None:
    """Replace the gradients of the trained parameters that every process holds by their means over the processes."""
    gradients = [
        value.grad for value in module.parameters() if value.grad is not None and not isinstance(value, DTensor)
    ]
    if not gradients:
        return
    flat = torch.cat([gradient.flatten() for gradient in gradients])  # a single transfer for all gradients
    torch.distributed.all_reduce(flat.div_(torch.distributed.get_world_size()))
    for gradient, mean in zip(gradients, torch.split(flat, [gradient.numel() for gradient in gradients]), strict=True):
        gradient.copy_(mean.view_as(gradient))


def gather_tensor(tensor: Tensor) -> Tensor:
    """Return a sharded tensor as a whole tensor, and other tensors unchanged; all processes must call this."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def copy_into_shards(target: Tensor, value: Tensor) -> None:
    """Copy a whole tensor into a tensor that may be sharded; each process copies its part and sends nothing."""
    if isinstance(target, DTensor):
        value = distribute_tensor(value.to(target.device), target.device_mesh, target.placements, src_data_rank=None)
    target.copy_(value)


class ModelGatherer:
    """Callable that gathers the weights of a sharded model into an unsharded copy, for inference and for saving.

    The sharded model itself cannot be used for inference, which reads weights outside of `forward` and stops `forward`
    early; FSDP supports neither.

    Args:
        model: The model before it is sharded.
    """

    def __init__(self, model: nn.Module) -> None:
        """Store a copy of the model's structure and buffers without its weights."""
        empty = {id(value): nn.Parameter(torch.empty_like(value, device="meta")) for value in model.parameters()}
        self._model, self._skeleton = model, copy.deepcopy(model, dict(empty))

    def __call__(self, device: str, *, keeps: bool = True) -> Any:
        """Return an unsharded copy of the model; all processes must call this.

        Args:
            device: Torch device of the copy.
            keeps: Whether this process needs the copy; if False, the result is None.
        """
        reshard_weights(self._model)
        weights: dict[int, Any] = {}
        for value, empty in zip(self._model.parameters(), self._skeleton.parameters(), strict=True):
            whole = gather_tensor(value.detach())
            if keeps:
                # deepcopy replaces each empty parameter by what it finds under its id, also where it is tied.
                weights[id(empty)] = nn.Parameter(whole.to(device))
        return copy.deepcopy(self._skeleton, weights).to(device) if keeps else None


def save_optimizer_shard(optimizer: Any, path: Path) -> None:
    """Write the part of the optimizer state that this process holds."""
    state = optimizer.state_dict()
    parts = {
        index: {key: value.to_local() if isinstance(value, DTensor) else value for key, value in entry.items()}
        for index, entry in state["state"].items()
    }
    torch.save({**state, "state": parts}, path)


def load_optimizer_shard(optimizer: Any, path: Path) -> None:
    """Load the part of the optimizer state that `save_optimizer_shard` wrote for this process.

    Every state tensor with at least one dimension has the shape of its parameter, because optimizers without this
    property are not sharded.
    """
    state = torch.load(path, map_location="cpu", weights_only=True)
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    indices = [index for group in state["param_groups"] for index in group["params"]]
    for index, weight in zip(indices, weights, strict=True):
        if isinstance(weight, DTensor):
            entry = state["state"].get(index, {})
            entry.update({key: _as_shard_of(weight, value) for key, value in entry.items()})
    optimizer.load_state_dict(state)


def _as_shard_of(weight: DTensor, value: Any) -> Any:
    if not isinstance(value, Tensor) or value.ndim == 0:
        return value
    placing: dict[str, Any] = {"run_check": False, "shape": weight.shape, "stride": weight.stride()}
    return DTensor.from_local(value.to(weight.device), weight.device_mesh, weight.placements, **placing)
