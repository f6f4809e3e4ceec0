"""Rank allocation by the singular values of the weights: only low-rank matrices are trained, as in WeLore."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from rerank.errors import UsageError
from rerank.finetune.components import CalibrationBatches
from rerank.finetune.inspection.spectra import inspected_weight_rank_profile


@dataclass(frozen=True, kw_only=True)
class Welore:
    """Rank allocation that adapts low-rank matrices with rank ``r`` and leaves all other matrices frozen.

    Singular values are divided by the largest one of their matrix. All matrices share one threshold: the lowest one for
    which the fraction of values up to it, averaged over matrices, is at least ``reduction``. A matrix is low-rank if
    its own fraction is at least ``reduction``.

    Attributes:
        reduction: Mean fraction of singular values up to the threshold.
    """

    paper: ClassVar[str] = "Jaiswal et al., 2024, arXiv 2407.11239 (WeLore)"
    summary: ClassVar[str] = "Adapts only matrices whose singular values decay quickly, and freezes the others"
    differs: ClassVar[str] = "The model is not compressed, and an adapter is trained instead of factors of its matrices"

    reduction: float = 0.5

    def __post_init__(self) -> None:
        """Check that ``reduction`` is above 0 and below 1."""
        if not 0 < self.reduction < 1:
            raise UsageError(f"Option reduction is {self.reduction}", expected="above 0 and below 1")

    def pattern(self, model: Any, targets: Sequence[str], r: int, calibrate: CalibrationBatches) -> Mapping[str, int]:
        """Return a mapping from module name to rank: ``r`` for low-rank matrices and 0 for others."""
        if not targets or r < 1:
            raise UsageError(
                f"The rank is {r} for {len(targets)} matrices", expected="a rank of at least 1 and at least one matrix"
            )
        spectra = {name: _weight_spectrum(model.get_submodule(name).weight) for name in targets}
        _, retained = inspected_weight_rank_profile(spectra, self.reduction)
        dropped = {name: 1 - retained[name] / len(values) for name, values in spectra.items()}
        # Every matrix retains at least one value, so that very small matrices may all stay below the option.
        least = min(self.reduction, max(dropped.values()))
        return {name: r if dropped[name] >= least else 0 for name in targets}


def _weight_spectrum(weight: Any) -> list[float]:
    import torch

    values = torch.linalg.svdvals(weight.detach().float())
    # Singular values are divided by the largest one; for a zero matrix, 0 / 0 is replaced by 0.
    relative: list[float] = (values / values[0]).nan_to_num(0.0).tolist()
    return [1.0, *relative[1:]]
