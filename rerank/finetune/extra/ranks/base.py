"""The protocol of rank allocation, which assigns a rank to each matrix within a fixed budget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from rerank.finetune.components import CalibrationBatches, TrainingComponent


class RankAllocation(TrainingComponent, Protocol):
    """Method that assigns a rank to each matrix. Dataclass fields are its options."""

    def pattern(self, model: Any, targets: Sequence[str], r: int, calibrate: CalibrationBatches) -> Mapping[str, int]:
        """Return module name -> rank (at least 0); the ranks sum to at most ``r`` times the number of targets.

        A matrix of rank 0 is not adapted.

        Args:
            model: The unmodified model.
            targets: Full names of the modules that will be adapted.
            r: Mean rank.
            calibrate: Calibration batches of the training data.
        """
