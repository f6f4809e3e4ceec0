"""Experimental methods that train a few layers at a time. Imports no heavy package."""

from dataclasses import dataclass
from typing import Any, ClassVar

from rerank.finetune import kernels
from rerank.finetune.components import FULL, CalibrationBatches, ComponentBase, ParameterKind, option


@dataclass(frozen=True, kw_only=True)
class Lisa(ComponentBase):
    """LISA: a few randomly drawn layers are trained at a time; all others are frozen, without optimizer state.

    Models with large embeddings and output heads save little, since these are trained in every step unless
    ``train_rest`` is off.
    """

    fits: ClassVar[frozenset[ParameterKind]] = FULL
    reason: ClassVar[str] = "It freezes layers of the model's own weights; those of adapters are already small"

    n: int = option(2, at_least=1)  #: Number of layers that are trained at a time.
    every: int = option(20, at_least=1)  #: Number of optimizer steps until new layers are drawn.
    train_rest: bool = True  #: Train embeddings, output head and last norm in every step.

    def odds(self, model: Any, calibrate: CalibrationBatches) -> list[float]:
        return []  # equal odds

    def callback(self, model: Any, calibrate: CalibrationBatches, *, seed: int) -> Any:
        return kernels.step_callbacks.LayerSamplingCallback(model, self, odds=self.odds(model, calibrate), seed=seed)


@dataclass(frozen=True, kw_only=True)
class Owlore(Lisa):
    """Layer sampling as in `lisa`, with odds proportional to the fraction of outlier weights per layer.

    The fractions are computed when the callback is created, which must be before a checkpoint is loaded.
    """

    n: int = option(5, at_least=1)
    every: int = option(50, at_least=1)
    #: Threshold M: an entry is an outlier if its score exceeds M times the mean score of its matrix.
    over: float = option(13.0, above=0)

    def odds(self, model: Any, calibrate: CalibrationBatches) -> list[float]:
        return kernels.step_callbacks.outlier_shares(
            model, kernels.step_callbacks.find_layers(model), calibrate, self.over
        )
