"""Computations of training components. The modules import torch and peft, so each is imported when it is first used."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rerank.finetune.kernels import (  # noqa: F401
        adamw,
        adamw_variants,
        factor_starts,
        fake_quantisation,
        frozen_bases,
        grpo,
        peft_files,
        step_callbacks,
    )


def __getattr__(name: str) -> Any:
    """Import and return a module of this package, so that ``kernels.adamw`` needs no import inside of a function."""
    if find_spec(f"{__name__}.{name}") is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return import_module(f"{__name__}.{name}")
