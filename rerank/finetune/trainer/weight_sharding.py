"""Sharding of the frozen weights over processes with torch's FSDP2. Imports torch.

The weights of a layer are gathered for its forward and backward pass, and resharded afterwards. Trained parameters are
small, so every process holds all of them, and `average_trained_gradients` averages their gradients. Optimizers and
checkpoints therefore work in the same way as without sharding.
"""

from __future__ import annotations

import os
from collections.abc import Collection

import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard

from rerank.errors import UsageError
from rerank.finetune.trainer.base_model import unwrap_adapted_model
from rerank.finetune.trainer.listwise_module import ListwiseModule


def shard_frozen_weights(module: ListwiseModule, kept: Collection[str], device: str) -> None:
    """Shard the frozen weights of all layers; the outputs of the model do not change.

    After this call, whenever one process runs the model, all processes have to run it. Embeddings and output matrix are
    not sharded.

    Args:
        module: The module with the adapter attached.
        kept: Names of the tensors that checkpoints hold, which are not sharded.
        device: Torch device of this process.

    Raises:
        UsageError: The decoder of the model has no attribute ``layers``.
    """
    layers = getattr(unwrap_adapted_model(module.model).get_decoder(), "layers", None)
    if layers is None:
        raise UsageError(
            f"fsdp = true with {type(unwrap_adapted_model(module.model)).__name__}, which has no attribute 'layers'",
            expected="a decoder whose layers are at .layers",
            remedy="Remove fsdp",
        )
    mesh = init_device_mesh(torch.device(device).type, (int(os.environ["WORLD_SIZE"]),))
    whole = {value for name, value in module.named_parameters() if name in kept}
    for layer in layers:
        # torch treats each layer as a root module; root modules keep gathered weights without reshard_after_forward.
        fully_shard(layer, mesh=mesh, reshard_after_forward=True, ignored_params=whole & set(layer.parameters()))
    module.is_sharded = True


def reshard_frozen_weights(module: ListwiseModule) -> None:
    """Free the weights of layers that are still gathered.

    Such layers exist because a judge that reads attention stops the model inside the last layer that it needs.
    """
    for submodule in module.modules():
        if isinstance(submodule, FSDPModule):
            submodule.reshard()


def average_trained_gradients(module: ListwiseModule) -> None:
    """Replace the gradients of the trained parameters by their means over the processes."""
    gradients = [value.grad for value in module.parameters() if value.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients])  # a single transfer for all gradients
    torch.distributed.all_reduce(flat.div_(torch.distributed.get_world_size()))
    for gradient, mean in zip(gradients, torch.split(flat, [gradient.numel() for gradient in gradients]), strict=True):
        gradient.copy_(mean.view_as(gradient))
