"""Weights that are shared out: of the frozen weights of each layer, every process keeps its part.

torch's FSDP2. A layer's parts are gathered while it runs, forward and backward, and let go of afterwards. What trains
is left whole on every process, where `average` makes its gradients one: an adapter is small, and so every optimizer
and every checkpoint is as without sharing. Imports torch at its top.
"""

from __future__ import annotations

import os
from collections.abc import Collection

import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard

from rerank.errors import UsageError
from rerank.finetune.trainer.base_model import plain
from rerank.finetune.trainer.module import Listwise


def share_out(module: Listwise, kept: Collection[str], device: str) -> None:
    """Share out the frozen weights of a model's layers over all processes; what they compute stays the same.

    From here on, every process has to run the model whenever one does. Embeddings and the head stay whole.

    Args:
        module: With the adapter attached.
        kept: Names of the tensors that checkpoints hold, which stay whole.
        device: Torch device of this process.

    Raises:
        UsageError: The model's layers are not where those of transformers' decoders are.
    """
    layers = getattr(plain(module.model).get_decoder(), "layers", None)
    if layers is None:
        raise UsageError(
            f"fsdp = true with {type(plain(module.model)).__name__}, which has no list of layers",
            expected="a decoder whose layers are at .layers",
            remedy="Leave fsdp out",
        )
    mesh = init_device_mesh(torch.device(device).type, (int(os.environ["WORLD_SIZE"]),))
    whole = {value for name, value in module.named_parameters() if name in kept}
    for layer in layers:
        # On its own each layer is a root to torch, and roots keep what they gathered unless told.
        fully_shard(layer, mesh=mesh, reshard_after_forward=True, ignored_params=whole & set(layer.parameters()))
    module.shared_out = True


def let_go(module: Listwise) -> None:
    """Let go of what is still gathered: a look at attention ends inside the last layer that it wants."""
    for part in module.modules():
        if isinstance(part, FSDPModule):
            part.reshard()


def average(module: Listwise) -> None:
    """Replace the gradients of what trains by their means over the processes."""
    found = [value.grad for value in module.parameters() if value.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in found])
    torch.distributed.all_reduce(flat.div_(torch.distributed.get_world_size()))
    for gradient, mean in zip(found, torch.split(flat, [gradient.numel() for gradient in found]), strict=True):
        gradient.copy_(mean.view_as(gradient))
