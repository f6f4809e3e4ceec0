"""Ranks from the spectra of the weights, as in WeLore."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from rerank.errors import UsageError
from rerank.finetune.inspection.spectra import above_one_threshold
from rerank.finetune.parts import Calibrate


@dataclass(frozen=True, kw_only=True)
class Welore:
    """The rank of a matrix is its number of singular values above a threshold, as shares of its largest.

    One threshold for all matrices, the lowest that keeps within the budget. So matrices with a flat spectrum get more,
    those of low rank less, and none less than 1. Where values are equal at the threshold, none of them counts, and the
    budget is not spent to the last.
    """

    paper: ClassVar[str] = "Jaiswal et al., 2024, arXiv 2407.11239 (WeLore)"
    summary: ClassVar[str] = "Ranks from one threshold on the normalised singular values of all matrices"

    def pattern(self, model: Any, targets: Sequence[str], r: int, calibrate: Calibrate) -> Mapping[str, int]:
        """See `Ranks`.

        Raises:
            UsageError: No targets, or a mean rank below 1.
        """
        if not targets or r < 1:
            raise UsageError(f"A mean rank of {r} for {len(targets)} matrices", expected="at least 1 of each")
        spectra = {name: _spectrum(model.get_submodule(name).weight) for name in targets}
        values = sum(map(len, spectra.values()))
        _, ranks = above_one_threshold(spectra, values - r * len(targets), lambda spectrum: 1)
        return ranks


def _spectrum(weight: Any) -> list[float]:
    import torch

    values = torch.linalg.svdvals(weight.detach().float())
    shares: list[float] = (values / values[0]).nan_to_num(0.0).tolist()
    return [1.0, *shares[1:]]
