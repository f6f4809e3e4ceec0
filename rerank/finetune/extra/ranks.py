"""Experimental methods that choose the adapter's rank for each matrix. Imports no heavy package."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rerank.errors import UsageError
from rerank.finetune import kernels
from rerank.finetune.components import CalibrationBatches, ComponentBase, option
from rerank.finetune.inspection.report import rank_profile


@dataclass(frozen=True, kw_only=True)
class Contribution(ComponentBase):
    """Rank allocation in proportion to the squared norm of each matrix's gradient under the training loss.

    The paper measures the contribution of filters in image networks by integrated gradients, not by the squared norm at
    the initial weights. No rank exceeds the smaller side of its matrix; the excess goes to other matrices.
    """

    #: Minimum rank of each matrix; the rest of the budget is distributed in proportion. With 0, some are not adapted.
    least: int = option(0, at_least=0)

    def pattern(self, model: Any, targets: Sequence[str], r: int, calibrate: CalibrationBatches) -> Mapping[str, int]:
        if not targets or r < max(1, self.least):
            raise UsageError(
                f"The mean rank is {r} for {len(targets)} matrices, with least={self.least}",
                expected="at least one matrix, and a mean rank of at least 1 that is not below least",
            )
        gradients = kernels.factor_starts.mean_loss_gradients(model, targets, calibrate)
        weights = {name: float(gradient.double().square().sum()) for name, gradient in gradients.items()}
        most = {name: min(gradient.shape) for name, gradient in gradients.items()}
        return allocate_proportionally(weights, r * len(targets), most, least=self.least)


def allocate_proportionally(
    weights: Mapping[str, float], budget: int, most: Mapping[str, int], *, least: int = 0
) -> dict[str, int]:
    """Distribute an integer budget in proportion to weights by the largest-remainder method; return the ranks by name.

    If all weights are 0, the shares are equal. The excess over a maximum in ``most`` goes to other names, so the sum is
    the budget or, if smaller, the sum of ``most``. No rank is below ``least`` unless its maximum is.

    >>> allocate_proportionally({"a": 3.0, "b": 1.0}, 8, {"a": 9, "b": 9})
    {'a': 6, 'b': 2}
    >>> allocate_proportionally({"a": 3.0, "b": 1.0}, 8, {"a": 4, "b": 9})
    {'a': 4, 'b': 4}
    """
    allocation = {name: min(least, most[name]) for name in weights}
    left = min(budget, sum(most.values())) - sum(allocation.values())
    while left > 0:
        free = [name for name in weights if allocation[name] < most[name]]
        total = sum(weights[name] for name in free)
        quotas = {name: left * (weights[name] / total if total else 1 / len(free)) for name in free}
        filled = [name for name in free if quotas[name] >= most[name] - allocation[name]]
        if filled:  # these names get their maximum, and the remaining budget is distributed again among the others
            for name in filled:
                left -= most[name] - allocation[name]
                allocation[name] = most[name]
            continue
        # Every name gets the integral part of its quota, and the largest fractional parts get one more each.
        floors = {name: math.floor(quota) for name, quota in quotas.items()}
        rounded_up = sorted(free, key=lambda name: floors[name] - quotas[name])[: left - sum(floors.values())]
        for name in free:
            allocation[name] += floors[name] + (name in rounded_up)
        break
    return allocation


@dataclass(frozen=True, kw_only=True)
class Welore(ComponentBase):
    """Rank allocation that adapts low-rank matrices with rank ``r`` and leaves all other matrices frozen.

    Singular values are divided by the largest one of their matrix. All matrices share one threshold: the lowest one for
    which the fraction of values up to it, averaged over matrices, is at least ``reduction``. A matrix is low-rank if
    its own fraction is at least ``reduction``.
    """

    reduction: float = option(0.5, above=0, below=1)  #: Mean fraction of singular values up to the threshold.

    def pattern(self, model: Any, targets: Sequence[str], r: int, calibrate: CalibrationBatches) -> Mapping[str, int]:
        import torch

        if not targets or r < 1:
            raise UsageError(
                f"The rank is {r} for {len(targets)} matrices", expected="a rank of at least 1 and at least one matrix"
            )
        spectra = {}
        for name in targets:
            values = torch.linalg.svdvals(model.get_submodule(name).weight.detach().float())
            # Singular values are divided by the largest one; for a zero matrix, 0 / 0 is replaced by 0.
            relative: list[float] = (values / values[0]).nan_to_num(0.0).tolist()
            spectra[name] = [1.0, *relative[1:]]
        _, retained = rank_profile(spectra, self.reduction)
        dropped = {name: 1 - retained[name] / len(values) for name, values in spectra.items()}
        # Every matrix retains at least one value, so that very small matrices may all stay below the option.
        least = min(self.reduction, max(dropped.values()))
        return {name: r if dropped[name] >= least else 0 for name in targets}
