"""The protocol of rank allocation, which chooses the adapter's rank for each matrix within a fixed budget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from rerank.finetune.components import CalibrationBatches, TrainingComponent


class RankAllocation(TrainingComponent, Protocol):
    """A method that chooses the adapter's rank for each matrix. Dataclass fields are its options."""

    def pattern(self, model: Any, targets: Sequence[str], r: int, calibrate: CalibrationBatches) -> Mapping[str, int]:
        """Return a mapping from module name to rank; the ranks sum to at most ``r`` times the number of targets.

        Ranks are at least 0. A matrix of rank 0 is not adapted.

        Args:
            model: The unmodified model.
            targets: Full names of the modules that will be adapted.
            r: Mean rank.
            calibrate: Calibration batches of the training data.
        """
