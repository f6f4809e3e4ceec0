"""Ranks from the spectra of the weights, as in WeLore."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from rerank.errors import UsageError
from rerank.finetune.base import Calibrate


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
        return above_one_threshold(spectra, r * len(targets))


def above_one_threshold(spectra: Mapping[str, Sequence[float]], budget: int) -> dict[str, int]:
    """How many values of each matrix lie above the lowest threshold that lets no more than ``budget`` pass.

    This is where bisection on the threshold ends, found by sorting.

    Args:
        spectra: Module name -> its singular values over the largest of them, so that the first is 1.
        budget: At least the number of matrices.

    >>> above_one_threshold({"flat": [1, 0.9, 0.8], "steep": [1, 0.2, 0.1]}, 4)
    {'flat': 3, 'steep': 1}
    >>> above_one_threshold({"flat": [1, 0.5, 0.5], "steep": [1, 0.2, 0.1]}, 3)
    {'flat': 1, 'steep': 1}
    """
    values = sorted((value for spectrum in spectra.values() for value in spectrum), reverse=True)
    threshold = values[budget] if budget < len(values) else -1.0
    return {name: sum(value > threshold for value in spectrum) for name, spectrum in spectra.items()}


def _spectrum(weight: Any) -> list[float]:
    import torch

    values = torch.linalg.svdvals(weight.detach().float())
    shares: list[float] = (values / values[0]).nan_to_num(0.0).tolist()
    return [1.0, *shares[1:]]
