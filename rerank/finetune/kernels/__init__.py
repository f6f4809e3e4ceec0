"""Computations of training components. The modules import torch and peft, so each is imported when it is first used."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rerank.finetune.kernels import (
        adalora as adalora,
    )
    from rerank.finetune.kernels import (
        adamw as adamw,
    )
    from rerank.finetune.kernels import (
        adamw_variants as adamw_variants,
    )
    from rerank.finetune.kernels import (
        factor_starts as factor_starts,
    )
    from rerank.finetune.kernels import (
        fake_quantisation as fake_quantisation,
    )
    from rerank.finetune.kernels import (
        four_bit as four_bit,
    )
    from rerank.finetune.kernels import (
        frozen_bases as frozen_bases,
    )
    from rerank.finetune.kernels import (
        grpo as grpo,
    )
    from rerank.finetune.kernels import (
        peft_configurations as peft_configurations,
    )
    from rerank.finetune.kernels import (
        peft_files as peft_files,
    )
    from rerank.finetune.kernels import (
        step_callbacks as step_callbacks,
    )
    from rerank.finetune.kernels import (
        subspace_adamw as subspace_adamw,
    )


def __getattr__(name: str) -> Any:
    """Import and return a module of this package, so that ``kernels.adamw`` needs no import inside of a function."""
    if find_spec(f"{__name__}.{name}") is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return import_module(f"{__name__}.{name}")
