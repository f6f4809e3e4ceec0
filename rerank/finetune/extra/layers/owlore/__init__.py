"""The layer sampling method OwLore: layers with more outlier weights are drawn for training more often."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from rerank.errors import UsageError
from rerank.finetune.components import CalibrationBatches
from rerank.finetune.extra.layers.lisa import Lisa


@dataclass(frozen=True, kw_only=True)
class Owlore(Lisa):
    """Layer sampling as in `lisa`, with odds proportional to the fraction of outlier weights per layer.

    OwLore is meant for the optimizer `galore`. The fractions are computed from the model when the callback is created.
    When training is resumed, the callback must therefore be created before the weights of the checkpoint are loaded;
    otherwise, layers would be drawn with other odds.

    Attributes:
        n: Number of layers that are trained at a time.
        every: Number of optimizer steps until new layers are drawn.
        over: Threshold M: an entry is an outlier if its score exceeds M times the mean score of its matrix.
    """

    paper: ClassVar[str] = "Li et al., arXiv 2405.18380 (OwLore)"
    summary: ClassVar[str] = "Layer sampling as in lisa, with more frequent draws of layers with more outliers"
    differs: ClassVar[str] = "Gradients are projected only if the recipe names the optimizer galore"

    n: int = 5
    every: int = 50
    over: float = 13.0

    def __post_init__(self) -> None:
        """Check that ``over`` is positive, and check the options of `lisa`."""
        super().__post_init__()
        if self.over <= 0:
            raise UsageError(f"Option over is {self.over!r}", expected="a number above 0")

    def odds(self, model: Any, calibrate: CalibrationBatches) -> list[float]:
        """Return the odds of drawing each layer: its fraction of outlier weights."""
        from rerank.finetune.extra.layers.base.layer_sampling import find_sampled_layers
        from rerank.finetune.extra.layers.owlore.outliers import compute_outlier_shares

        return compute_outlier_shares(model, find_sampled_layers(model), calibrate, self.over)
