"""Rank allocation by the singular values of the weights, based on WeLore."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from rerank.errors import UsageError
from rerank.finetune.components import CalibrationBatches
from rerank.finetune.inspection.spectra import select_common_rank_threshold


@dataclass(frozen=True, kw_only=True)
class Welore:
    """Rank allocation in which the rank of a matrix is its number of normalised singular values above a threshold.

    Singular values are divided by the largest one of their matrix. All matrices share one threshold: the lowest one
    that stays within the budget. Matrices with a flat spectrum get larger ranks, and matrices of low rank get smaller
    ranks, but at least 1. Singular values equal to the threshold do not count, so part of the budget may be unused.
    """

    paper: ClassVar[str] = "Jaiswal et al., 2024, arXiv 2407.11239 (WeLore)"
    summary: ClassVar[str] = "Ranks from one threshold on the normalised singular values of all matrices"

    def pattern(self, model: Any, targets: Sequence[str], r: int, calibrate: CalibrationBatches) -> Mapping[str, int]:
        """Return module name -> number of normalised singular values above the common threshold.

        Raises:
            UsageError: There are no targets, or the mean rank is below 1.
        """
        if not targets or r < 1:
            raise UsageError(
                f"The mean rank is {r} for {len(targets)} matrices",
                expected="a mean rank of at least 1 and at least one matrix",
            )
        spectra = {name: _weight_spectrum(model.get_submodule(name).weight) for name in targets}
        values = sum(map(len, spectra.values()))
        _, ranks = select_common_rank_threshold(spectra, values - r * len(targets), lambda spectrum: 1)
        return ranks


def _weight_spectrum(weight: Any) -> list[float]:
    import torch

    values = torch.linalg.svdvals(weight.detach().float())
    # Singular values are divided by the largest one; for a zero matrix, 0 / 0 is replaced by 0.
    relative: list[float] = (values / values[0]).nan_to_num(0.0).tolist()
    return [1.0, *relative[1:]]
