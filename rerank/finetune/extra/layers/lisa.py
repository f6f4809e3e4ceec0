"""LISA: a few layers train at a time, drawn with equal chances."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from rerank.errors import UsageError
from rerank.finetune.parts import Calibrate, Shape


@dataclass(frozen=True, kw_only=True)
class Lisa:
    """Every so many steps other layers are drawn; all others are frozen, and the optimizer forgets them.

    What it saves is the state of frozen layers, and less than expected where embeddings and head are large, for these
    train all the time unless ``train_rest`` is off.

    Attributes:
        n: How many layers train at a time.
        every: Optimizer steps until others are drawn.
        train_rest: Whether embeddings, head and last norm train.
    """

    paper: ClassVar[str] = "Pan et al., NeurIPS 2024, arXiv 2403.17919 (LISA)"
    summary: ClassVar[str] = "Trains a few layers at a time, drawn anew every so many steps"
    fits: ClassVar[frozenset[Shape]] = frozenset({"full"})
    reason: ClassVar[str] = "It freezes layers of the model's own weights, and an adapter's are small already"

    n: int = 2
    every: int = 20
    train_rest: bool = True

    def __post_init__(self) -> None:
        """Refuse what draws nothing."""
        for option in ("n", "every"):
            if getattr(self, option) < 1:
                raise UsageError(f"Option {option} is {getattr(self, option)!r}", expected="a whole number above 0")

    def odds(self, model: Any, calibrate: Calibrate) -> list[float]:
        """Odds of each layer; none for equal ones."""
        return []

    def callback(self, model: Any, calibrate: Calibrate, *, seed: int) -> Any:
        """See `rerank.finetune.extra.layers.base.Between`.

        Raises:
            UsageError: The model has fewer layers than are to train at a time.
        """
        from rerank.finetune.extra.layers.base.sampling import SampleLayers

        return SampleLayers(
            model,
            n=self.n,
            every=self.every,
            train_rest=self.train_rest,
            seed=seed,
            odds=self.odds(model, calibrate),
        )
