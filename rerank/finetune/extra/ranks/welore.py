"""Rank allocation by the spectra of the weights, after WeLore."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from rerank.errors import UsageError
from rerank.finetune.components import CalibrationBatches
from rerank.finetune.inspection.spectra import select_common_rank_threshold


@dataclass(frozen=True, kw_only=True)
class Welore:
    """The rank of a matrix is its number of singular values above a threshold relative to its largest one.

    All matrices share one threshold, the lowest that stays within the budget. Matrices with a flat spectrum get larger
    ranks, those of low rank smaller ones, and at least 1. Singular values equal to the threshold do not count, so that
    the budget may not be used completely.
    """

    paper: ClassVar[str] = "Jaiswal et al., 2024, arXiv 2407.11239 (WeLore)"
    summary: ClassVar[str] = "Ranks from one threshold on the normalised singular values of all matrices"

    def pattern(self, model: Any, targets: Sequence[str], r: int, calibrate: CalibrationBatches) -> Mapping[str, int]:
        """Return the number of singular values above the common threshold per matrix.

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
    # Relative to the largest value; a zero matrix would give 0 / 0.
    relative: list[float] = (values / values[0]).nan_to_num(0.0).tolist()
    return [1.0, *relative[1:]]
