"""The processes of a training under torchrun: device, main process, shared values and memory use."""

import os
import sys
from importlib import import_module
from typing import Any

from rerank.errors import UsageError
from rerank.lm.loading import pick_device


def own_device(device: str) -> str:
    """Return the device of this process; under torchrun, every process has its own GPU."""
    picked = pick_device(device)
    if picked.startswith("cuda:"):
        raise UsageError(
            f"--device {device} selects a single GPU, which is not supported in training",
            expected="cuda",
            remedy=f"Set CUDA_VISIBLE_DEVICES={picked[5:]}, and omit --device",
        )
    return f"cuda:{os.environ['LOCAL_RANK']}" if picked == "cuda" and "LOCAL_RANK" in os.environ else picked


def is_main() -> bool:
    """Return whether this is the main process, which writes the files: the only process, or the first of several."""
    return os.environ.get("RANK", "0") == "0"


def value_of_first(value: float) -> float:
    """Return the first process's ``value`` in every process, so that all make the same decisions, such as stopping."""
    import torch.distributed

    values = [value]
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.broadcast_object_list(values)
    return values[0]


def peak_memory_mb() -> float:
    """Return the peak memory use so far, in MiB: GPU memory if there is a GPU, otherwise memory of this process."""
    import torch

    if torch.cuda.is_available():
        return round(torch.cuda.max_memory_allocated() / 2**20, 1)
    try:
        resource: Any = import_module("resource")
    except ImportError:  # Windows
        psutil: Any = import_module("psutil")  # a dependency of accelerate
        memory = psutil.Process().memory_info()
        return round(float(getattr(memory, "peak_wset", memory.rss)) / 2**20, 1)
    unit = 2**20 if sys.platform == "darwin" else 2**10  # ru_maxrss is in bytes on macOS, in KiB on Linux
    return round(float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) / unit, 1)
