"""Sharding of the weights of a model over processes with torch's FSDP2, and the trainer of sharded modules.

With an adapter, only the frozen weights of the layers are sharded. Trained parameters are small, so every process holds
all of them, and optimizers and checkpoints work in the same way as without sharding. In full fine-tuning, all weights
are trained; then weights, gradients and optimizer state are all sharded. Imports torch.
"""

import copy
import os
import pickle
from collections.abc import Collection
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers.trainer import SCHEDULER_NAME

from rerank.errors import UsageError
from rerank.finetune.trainer import processes
from rerank.finetune.trainer.base_model import unwrap_adapted_model
from rerank.finetune.trainer.list_trainer import ListTrainer
from rerank.finetune.trainer.listwise_module import ListwiseModule
from rerank.finetune.trainer.training_folder import storage_errors


def share_structure(structure: Any, device: str) -> Any:
    """Return the first process's ``structure`` in all processes; all processes must call this function.

    The first process gets the same object. In the others, a parameter has the shape, but no values of its own, and
    takes no memory: `shard_weights` sends the values. So only the first process has read the weights, initialised an
    adapter from them, and holds all of them at once.
    """
    if not torch.distributed.is_initialized():
        torch.distributed.init_process_group(timeout=timedelta(hours=2))  # the others wait while a large model is read
    init_device_mesh(torch.device(device).type, (int(os.environ["WORLD_SIZE"]),))  # which selects the GPU
    parts = [pickle_without_values(*structure) if processes.is_main() else b""]
    torch.distributed.broadcast_object_list(parts, device=torch.device(device))
    return structure if processes.is_main() else pickle.loads(parts[0])


def pickle_without_values(module: nn.Module, *more: Any) -> bytes:
    """Pickle a module, and objects that may refer to it; instead of the values of a parameter, one is stored."""
    hollow: dict[int, Any] = {}
    try:
        for value in module.parameters():
            if value._backward_hooks:
                raise TypeError("a parameter has a hook on its gradient")
            same = torch.zeros((), dtype=value.dtype).expand(value.shape)
            hollow[id(value)] = nn.Parameter(same, requires_grad=value.requires_grad)
        return pickle.dumps(copy.deepcopy((module, *more), hollow))
    except (pickle.PicklingError, AttributeError, TypeError) as error:  # such as a hook that is a local function
        raise UsageError(
            f"fsdp = true cannot be used with this adapter or model, which cannot be pickled: {error}",
            expected="modules and hooks that are defined at the top level of a Python module",
            remedy="Remove fsdp, or use another adapter",
        ) from error


def _send_weights(module: nn.Module, sent: set[int], device: str) -> None:
    """Send the first process's parameters of a module that are not in ``sent`` to the other processes."""
    for value in module.parameters():
        if isinstance(value, DTensor) or id(value) in sent:
            continue
        if processes.is_main():
            torch.distributed.broadcast(value.detach().to(device).contiguous(), 0)
        else:
            value.data = torch.empty(value.shape, dtype=value.dtype, device=device)
            torch.distributed.broadcast(value.data, 0)
        sent.add(id(value))


def shard_weights(module: ListwiseModule, kept: Collection[str], device: str, dtype: str) -> None:
    """Shard all weights of a model in full fine-tuning; otherwise shard only the frozen weights of its layers.

    A layer is gathered for its forward and backward pass, and resharded afterwards. After this call, whenever one
    process runs the model, all processes have to run it. Trained weights keep their data type, float32; the layers are
    gathered in the data type of the computation, and gradients are summed in float32. Tensors of checkpoints (``kept``)
    are not sharded unless all weights are. The weights are those of the first process, sent layer by layer.
    """
    model = unwrap_adapted_model(module.model)
    if (layers := getattr(model.get_decoder(), "layers", None)) is None:
        raise UsageError(
            f"fsdp = true cannot be used with {type(model).__name__}, whose decoder has no attribute 'layers'",
            expected="a decoder with an attribute 'layers'",
            remedy="Remove fsdp",
        )
    sent: set[int] = set()
    mesh = init_device_mesh(torch.device(device).type, (int(os.environ["WORLD_SIZE"]),))
    if trains_whole_model(module):
        module.gather_model = ModelGatherer(model)
        # Inputs of layers are not cast: as in a single process under autocast, the residual stream stays in float32.
        policy = MixedPrecisionPolicy(
            param_dtype=getattr(torch, dtype), reduce_dtype=torch.float32, cast_forward_inputs=False
        )
        for layer in layers:
            _send_weights(layer, sent, device)
            fully_shard(layer, mesh=mesh, mp_policy=policy)
        _send_weights(module, sent, device)
        fully_shard(model, mesh=mesh)  # embeddings, final norm and output matrix, which may be tied
    else:
        whole = {value for name, value in module.named_parameters() if name in kept}
        for layer in layers:
            _send_weights(layer, sent, device)
            # An adapter may have wrapped the layer in a module whose inputs and outputs are objects of peft, in which
            # torch finds no tensors to wait for. The wrapped layer inside this module contains the frozen weights.
            inner = getattr(layer, "base_layer", layer)
            # Each layer is a root module for torch, which keeps gathered weights without reshard_after_forward.
            fully_shard(inner, mesh=mesh, reshard_after_forward=True, ignored_params=whole & set(inner.parameters()))
        _send_weights(module, sent, device)
    module.to(device)
    module.is_sharded = True


def trains_whole_model(module: ListwiseModule) -> bool:
    """Return whether all weights of the model are trained."""
    return all(value.requires_grad for value in module.model.parameters())


def reshard_weights(module: nn.Module) -> None:
    """Free the weights that are still gathered.

    They stay gathered after a forward pass without a backward pass, or after a judge that stops the model early.
    """
    for submodule in module.modules():
        if isinstance(submodule, FSDPModule):
            submodule.reshard()


def gather_tensor(tensor: Tensor) -> Tensor:
    """Return a sharded tensor as a whole tensor, and other tensors unchanged; all processes must call this."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


class ModelGatherer:
    """Callable that gathers the weights of a sharded model into an unsharded copy, for inference and for saving.

    Inference reads weights outside of `forward` and stops `forward` early; FSDP supports neither. A gatherer is made
    before the model is sharded, and keeps its structure and buffers.
    """

    def __init__(self, model: nn.Module) -> None:
        empty = {id(value): nn.Parameter(torch.empty_like(value, device="meta")) for value in model.parameters()}
        self._model, self._skeleton = model, copy.deepcopy(model, dict(empty))

    def __call__(self, device: str, *, keeps: bool = True) -> Any:
        """Return an unsharded copy of the model, or None unless this process ``keeps`` it; all processes must call."""
        reshard_weights(self._model)
        weights: dict[int, Any] = {}
        for value, empty in zip(self._model.parameters(), self._skeleton.parameters(), strict=True):
            whole = gather_tensor(value.detach())
            if keeps:
                # deepcopy replaces each empty parameter by what it finds under its id, also where it is tied.
                weights[id(empty)] = nn.Parameter(whole.to(device))
        return copy.deepcopy(self._skeleton, weights).to(device) if keeps else None


class ShardedListTrainer(ListTrainer):
    """Trainer of a module that `shard_weights` has sharded; the arguments are those of `ListTrainer`.

    Every process writes its part of a sharded optimizer state as tensors. torch.distributed.checkpoint is not used,
    because its metadata is a pickle, so a checkpoint from an untrusted source could execute code.
    """

    def __init__(self, module: ListwiseModule, *args: Any, **options: Any) -> None:
        super().__init__(module, *args, **options)
        # Without DistributedDataParallel, which rejects sharded weights.
        self.accelerator.prepare_model = partial(self.accelerator.prepare_model, evaluation_mode=True)
        self._shards_state = trains_whole_model(module)

    def create_optimizer(self, model: Any = None) -> Any:
        reshard_weights(cast(nn.Module, self.model))
        return super().create_optimizer(model)

    def complete_gradients(self) -> None:
        """Average the gradients of the parameters that are not sharded; FSDP has averaged the others."""
        gradients = [
            value.grad
            for value in cast(nn.Module, self.model).parameters()
            if value.grad is not None and not isinstance(value, DTensor)
        ]
        if not gradients:
            return
        flat = torch.cat([gradient.flatten() for gradient in gradients])  # a single transfer for all gradients
        torch.distributed.all_reduce(flat.div_(torch.distributed.get_world_size()))
        means = torch.split(flat, [gradient.numel() for gradient in gradients])
        for gradient, mean in zip(gradients, means, strict=True):
            gradient.copy_(mean.view_as(gradient))

    def load_weights(self, folder: Path) -> None:
        reshard_weights(cast(nn.Module, self.model))  # a forward pass may have left gathered weights
        super().load_weights(folder)

    def _copy(self, target: Tensor, value: Tensor) -> None:
        if isinstance(target, DTensor):
            on_device = value.to(target.device)
            value = distribute_tensor(on_device, target.device_mesh, target.placements, src_data_rank=None)
        target.copy_(value)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Gather the trained tensors and write them in the first process; all processes must call this method."""
        tensors: dict[str, Tensor] = {}
        for name, value in cast(Any, self.model).state_dict().items():
            if name in self._kept:
                whole = gather_tensor(value.detach())
                if self.args.should_save:
                    tensors[name] = whole.cpu()
        self._save(output_dir, tensors)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if not self._shards_state:
            super()._save_optimizer_and_scheduler(output_dir)
            return
        state = cast(Any, self.optimizer).state_dict()
        parts = {
            index: {key: value.to_local() if isinstance(value, DTensor) else value for key, value in entry.items()}
            for index, entry in state["state"].items()
        }
        with storage_errors():
            Path(output_dir).mkdir(parents=True, exist_ok=True)
            torch.save({**state, "state": parts}, self._state_file(output_dir))
            if self.args.should_save:
                torch.save(cast(Any, self.lr_scheduler).state_dict(), Path(output_dir) / SCHEDULER_NAME)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if not self._shards_state or checkpoint is None:
            super()._load_optimizer_and_scheduler(checkpoint)
            return
        optimizer = cast(Any, self.optimizer)
        state = torch.load(self._state_file(checkpoint), map_location="cpu", weights_only=True)
        weights = [weight for group in optimizer.param_groups for weight in group["params"]]
        indices = [index for group in state["param_groups"] for index in group["params"]]
        for index, weight in zip(indices, weights, strict=True):
            for key, value in state["state"].get(index, {}).items() if isinstance(weight, DTensor) else ():
                # Every state tensor with at least one dimension has the shape of its parameter, because optimizers
                # without this property are not sharded.
                if isinstance(value, Tensor) and value.ndim > 0:
                    placing: dict[str, Any] = {"run_check": False, "shape": weight.shape, "stride": weight.stride()}
                    state["state"][index][key] = DTensor.from_local(
                        value.to(weight.device), weight.device_mesh, weight.placements, **placing
                    )
        optimizer.load_state_dict(state)
        cast(Any, self.lr_scheduler).load_state_dict(torch.load(Path(checkpoint) / SCHEDULER_NAME, weights_only=True))

    def _state_file(self, folder: str) -> Path:
        return Path(folder) / f"optimizer_{self.args.process_index}_of_{self.args.world_size}.pt"
