"""Experimental callbacks that change a model between optimizer steps. Imports no heavy package."""

from dataclasses import dataclass
from typing import Any, ClassVar

from rerank.finetune import kernels
from rerank.finetune.components import LORA, CalibrationBatches, ComponentBase, ParameterKind, option


@dataclass(frozen=True, kw_only=True)
class Refactor(ComponentBase):
    """Callback that periodically rewrites B A as two factors with equal singular values and resets the moments of both.

    The moments are the running means in the state of the optimizer. The product B A is unchanged up to rounding to the
    data type of the factors. A pair whose product does not have the full rank of the adapter is left unchanged. The
    callback never acts after the last step.
    """

    fits: ClassVar[frozenset[ParameterKind]] = LORA
    reason: ClassVar[str] = "It rewrites lora_A and lora_B, which other adapters lack"

    every: int = option(200, at_least=1)  #: Number of optimizer steps between two rewrites.

    def callback(self, model: Any, calibrate: CalibrationBatches, *, seed: int) -> Any:
        return kernels.step_callbacks.RefactorizationCallback(
            kernels.adamw_variants.find_factor_pairs(model), every=self.every
        )
