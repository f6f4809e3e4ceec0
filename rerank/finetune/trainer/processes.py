"""The processes of a training under torchrun: which device each one has, and which one writes the files."""

from __future__ import annotations

import os

from rerank.errors import UsageError
from rerank.lm.loading import pick_device


def process_device(device: str) -> str:
    """Return the device of this process; under torchrun, every process has its own GPU.

    Raises:
        UsageError: A particular GPU is named, which transformers' trainer does not support.
    """
    picked = pick_device(device)
    if picked.startswith("cuda:"):
        raise UsageError(
            f"--device {device}", expected="cuda", remedy=f"Set CUDA_VISIBLE_DEVICES={picked[5:]}, and omit --device"
        )
    return f"cuda:{os.environ['LOCAL_RANK']}" if picked == "cuda" and "LOCAL_RANK" in os.environ else picked


def is_main_process() -> bool:
    """Return whether this process writes the files: the only process, or the first one started by torchrun."""
    return os.environ.get("RANK", "0") == "0"
