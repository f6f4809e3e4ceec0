"""What a way of choosing ranks is: a number a matrix, their sum fixed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from rerank.finetune.parts import Calibrate, Part


class Ranks(Part, Protocol):
    """Gives each matrix a rank. Its fields are its options."""

    def pattern(self, model: Any, targets: Sequence[str], r: int, calibrate: Calibrate) -> Mapping[str, int]:
        """Module name -> rank, at least 0, with a sum of at most ``r`` times the number of targets.

        A matrix of rank 0 is not adapted.

        Args:
            model: The untouched model.
            targets: Full names of the modules that are to be adapted.
            r: Mean rank.
            calibrate: Batches of the training data.
        """
