"""Tensor parallelism: one model, split over the processes that torchrun started. Torch is imported on use.

Only process 0 (the leader) runs the program. The leader broadcasts every batch before it calls the model, and the other
processes (followers) take part in the same forward passes.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable
from typing import Any

from rerank.errors import RerankError, UsageError


def count_tensor_parallel_processes() -> int:
    """Return the number of processes that torchrun started; 1 without torchrun."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def torch_parallel_loading_arguments() -> dict[str, Any]:
    """Return the arguments of ``from_pretrained`` that split a model over all processes."""
    if count_tensor_parallel_processes() < 2:
        raise UsageError(
            "--device-map is tp, but there is only one process",
            expected="one process per device, started by torchrun",
            remedy="Run: torchrun --nproc-per-node DEVICES -m rerank ...; or use --device-map auto",
        )
    try:
        from transformers.distributed.configuration_utils import DistributedConfig

        return {"distributed_config": DistributedConfig(tp_plan="auto")}
    except (ImportError, TypeError):  # an older transformers
        return {"tp_plan": "auto"}


def is_causal_model_split(model: Any) -> bool:
    """Return whether each process holds only a part of every weight matrix."""
    return (getattr(model, "_tp_size", None) or 1) > 1


def follow_torch_leader(process: Callable[[Any], Any]) -> None:
    """Process every broadcast batch in a follower until the leader ends, then exit; return at once in the leader.

    Args:
        process: Function that a follower calls with each batch, as the leader does itself.
    """
    import torch.distributed as distributed

    if distributed.get_rank() == 0:
        atexit.register(broadcast_torch_batch, None)
        return
    while (batch := _receive_torch_batch()) is not None:
        try:
            process(batch)
        except (RuntimeError, MemoryError, RerankError):  # the leader has the same error and reports it
            continue
    raise SystemExit(0)


def broadcast_torch_batch(batch: Any) -> None:
    """Send the next batch to the followers; None tells them to exit."""
    import torch.distributed as distributed

    if distributed.is_initialized():
        distributed.broadcast_object_list([batch], src=0)


def _receive_torch_batch() -> Any:
    import torch.distributed as distributed

    objects = [None]
    distributed.broadcast_object_list(objects, src=0)
    return objects[0]
