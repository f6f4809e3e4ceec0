"""OwLore: a few layers train at a time, those with more outliers more often."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from rerank.errors import UsageError
from rerank.finetune.extra.layers.lisa import Lisa
from rerank.finetune.parts import Calibrate


@dataclass(frozen=True, kw_only=True)
class Owlore(Lisa):
    """As `lisa`, with chances in proportion to the share of outliers in a layer's weights; made for `galore`.

    Shares are those of the model as it is when the callback is made: a training that is resumed has to make it before
    it loads the checkpoint's weights, or it would draw from other odds.

    Attributes:
        n: How many layers train at a time.
        every: Optimizer steps until others are drawn.
        over: M: an outlier is above so many times the mean of its matrix.
    """

    paper: ClassVar[str] = "Li et al., arXiv 2405.18380 (OwLore)"
    summary: ClassVar[str] = "As lisa, layers with more outliers drawn more often"

    n: int = 5
    every: int = 50
    over: float = 13.0

    def __post_init__(self) -> None:
        """Refuse what draws nothing, or counts everything."""
        super().__post_init__()
        if self.over <= 0:
            raise UsageError(f"Option over is {self.over!r}", expected="a number above 0")

    def odds(self, model: Any, calibrate: Calibrate) -> list[float]:
        """The share of outliers in each layer."""
        from rerank.finetune.extra.layers.base.sampling import blocks
        from rerank.finetune.extra.layers.owlore.outliers import outlier_shares

        return outlier_shares(model, blocks(model), calibrate, self.over)
