"""One model over several processes of torchrun, every matrix split: the first leads, the others do as it does.

Only the leader runs the program; what it hands to the model it tells the others first, who then take part in the same
passes. Imports torch when called.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable
from typing import Any

from rerank.errors import RerankError, UsageError


def processes() -> int:
    """How many processes torchrun started; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def placement() -> dict[str, Any]:
    """The arguments that make transformers split a model over all processes.

    Raises:
        UsageError: There is a single process.
    """
    if processes() < 2:
        raise UsageError(
            "--device-map tp in a single process",
            expected="one process a device, started by torchrun",
            remedy="Run: torchrun --nproc-per-node DEVICES -m rerank ...; or take --device-map auto",
        )
    try:
        from transformers.distributed.configuration_utils import DistributedConfig

        return {"distributed_config": DistributedConfig(tp_plan="auto")}
    except (ImportError, TypeError):  # an older transformers
        return {"tp_plan": "auto"}


def is_split(model: Any) -> bool:
    """Whether a process holds only its part of each matrix."""
    return (getattr(model, "_tp_size", None) or 1) > 1


def lead_or_follow(do: Callable[[Any], Any]) -> None:
    """Return in the leader; in the others, do what the leader does until it ends, then end the process.

    Args:
        do: What the leader will do with what it tells (`tell`).
    """
    import torch.distributed as distributed

    if distributed.get_rank() == 0:
        atexit.register(tell, None)
        return
    while (told := _told()) is not None:
        try:
            do(told)
        except (RuntimeError, MemoryError, RerankError):  # the leader met it too, and says so
            continue
    raise SystemExit(0)


def tell(what: Any) -> None:
    """Tell the other processes what the leader is about to do; None is the end."""
    import torch.distributed as distributed

    if distributed.is_initialized():
        distributed.broadcast_object_list([what], src=0)


def _told() -> Any:
    import torch.distributed as distributed

    box = [None]
    distributed.broadcast_object_list(box, src=0)
    return box[0]
