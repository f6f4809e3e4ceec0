"""The layer sampling method LISA: only a few layers are trained at a time, drawn with equal odds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from rerank.errors import UsageError
from rerank.finetune.components import CalibrationBatches, ParameterKind


@dataclass(frozen=True, kw_only=True)
class Lisa:
    """LISA: a few randomly drawn layers are trained at a time; all others are frozen, without optimizer state.

    LISA saves the memory that the optimizer would need for frozen layers. The saving is small for models with large
    embeddings and output heads, since these are trained in every step unless ``train_rest`` is off.

    Attributes:
        n: Number of layers that are trained at a time.
        every: Number of optimizer steps until new layers are drawn.
        train_rest: Train embeddings, output head and last norm in every step.
    """

    paper: ClassVar[str] = "Pan et al., NeurIPS 2024, arXiv 2403.17919 (LISA)"
    summary: ClassVar[str] = "Trains a few layers at a time, which are drawn anew periodically"
    fits: ClassVar[frozenset[ParameterKind]] = frozenset({"full"})
    reason: ClassVar[str] = "It freezes layers of the model's own weights; those of adapters are already small"

    n: int = 2
    every: int = 20
    train_rest: bool = True

    def __post_init__(self) -> None:
        """Check that ``n`` and ``every`` are at least 1."""
        for option in ("n", "every"):
            if getattr(self, option) < 1:
                raise UsageError(f"Option {option} is {getattr(self, option)!r}", expected="a whole number above 0")

    def odds(self, model: Any, calibrate: CalibrationBatches) -> list[float]:
        """Return an empty list, because all layers have equal odds."""
        return []

    def callback(self, model: Any, calibrate: CalibrationBatches, *, seed: int) -> Any:
        """Return the trainer callback that samples layers."""
        from rerank.finetune.extra.layers.base.layer_sampling import LayerSamplingCallback

        return LayerSamplingCallback(
            model,
            n=self.n,
            every=self.every,
            train_rest=self.train_rest,
            seed=seed,
            odds=self.odds(model, calibrate),
        )
