"""What a change of a matrix is like: its rank, its size, how much of it is nothing, and directions that are new.

Pure functions of matrices and of singular values; a matrix W is (out, in), so that its left singular vectors live where
its outputs do. Knows no models, adapters or files. Torch is imported where a decomposition is made.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from rerank.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor


def left_vectors(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Left singular vectors and singular values, the largest first.

    Args:
        matrix: (m, n).

    Returns:
        (m, p) orthonormal columns and (p,) values, p = min(m, n).
    """
    u, values, _ = _svd(matrix)
    return u, values


def spectrum(matrix: Tensor) -> Tensor:
    """(min(m, n),) singular values of an (m, n) matrix, the largest first."""
    import torch

    found: Tensor = torch.linalg.svdvals(matrix)
    return found


def factor_spectrum(left: Tensor, right: Tensor) -> Tensor:
    """Singular values of a product of thin factors, without forming it.

    With Q R = left and Q' R' = right^T, the product is Q (R R'^T) Q'^T, and its singular values are those of the small
    matrix R R'^T.

    Args:
        left: (m, r).
        right: (r, n).

    Returns:
        (min(m, n, r),) the largest first.
    """
    import torch

    _, first = torch.linalg.qr(left)
    _, second = torch.linalg.qr(right.T)
    return spectrum(first @ second.T)


def numerical_rank(values: Tensor, size: int, floor: float = 0.0) -> int:
    """How many singular values are more than rounding.

    Counts sigma > max(size * eps * sigma_1, floor), eps being the step of the values' number type: the rule of
    ``matrix_rank`` in numpy and torch.

    Args:
        values: (p,) the largest first.
        size: The longer side of what was decomposed.
        floor: What rounding elsewhere can have left in the matrix; 0 for none.
    """
    import torch

    if not len(values):
        return 0
    bound = max(size * torch.finfo(values.dtype).eps * float(values[0]), floor)
    return int((values > bound).sum())


def entropy_rank(values: Tensor) -> float:
    """exp(-sum p log p) of the singular values as shares, p_i = sigma_i / sum sigma: 1 for one, p for p equal ones.

    Source: Roy and Vetterli, The effective rank, EUSIPCO 2007, definition 1. 0 where all values are 0.
    """
    total = float(values.double().sum())
    if not total:
        return 0.0
    shares = values.double() / total
    shares = shares[shares > 0]
    return math.exp(-float((shares * shares.log()).sum()))


def sparsity(delta: Tensor, tolerance: float = 1e-5) -> float:
    """Share of the entries with |d| <= tolerance: those that training left where they were.

    Source: Mukherjee et al., Reinforcement Learning Finetunes Small Subnetworks in Large Language Models, arXiv
    2505.11711, whose tolerance is 1e-5.
    """
    return float((delta.abs() <= tolerance).double().mean())


def intruders(before: Tensor, after: Tensor, *, top: int = 10, epsilon: float = 0.5) -> list[int]:
    """Which of the first singular vectors after training resemble none of those before it.

    u'_j, j <= top, is an intruder where max_i |u_i . u'_j| < epsilon, over all i. Source: Shuttleworth et al., LoRA vs
    Full Fine-tuning: An Illusion of Equivalence, arXiv 2410.21228, algorithm 1.

    Args:
        before: (m, p) left singular vectors of W.
        after: (m, p') left singular vectors of W + dW, by falling singular value.
        top: How many of ``after`` are looked at.
        epsilon: The bound on the absolute cosine.

    Returns:
        Their places, from 0.
    """
    nearest = (before.T @ after[:, :top]).abs().amax(dim=0)
    return [place for place, cosine in enumerate(nearest.tolist()) if cosine < epsilon]


def shrink_intruders(
    weight: Tensor, changed: Tensor, factor: float, *, top: int = 10, epsilon: float = 0.5
) -> tuple[Tensor, int, int]:
    """W + dW with its intruders' singular values multiplied by ``factor``.

    W + dW + (factor - 1) sum_j sigma_j u_j v_j^T over the intruders j: with 1 nothing changes, with 0 they are gone.
    Source: Shuttleworth et al., arXiv 2410.21228, section 5 (their lambda).

    Args:
        weight: (m, n) W.
        changed: (m, n) W + dW.
        factor: From 0 to 1.
        top: As in `intruders`.
        epsilon: As in `intruders`.

    Returns:
        The new matrix, how many intruders there were, and how many are among its own first ``top``.
    """
    before, _ = left_vectors(weight)
    u, values, vh = _svd(changed)
    places = intruders(before, u, top=top, epsilon=epsilon)
    if not places:
        return changed, 0, 0
    # The rows of vh stay in their places: what is not an intruder must not change by a rounding error.
    reduced = changed + (factor - 1) * (u[:, places] * values[places]) @ vh[places]
    values[places] *= factor
    order = values.argsort(descending=True, stable=True)
    return reduced, len(places), len(intruders(before, u[:, order], top=top, epsilon=epsilon))


def rank_profile(spectra: Mapping[str, Sequence[float]], reduction: float) -> tuple[float, dict[str, int]]:
    """Ranks of many matrices under one threshold on their singular values, each spectrum divided by its largest value.

    The threshold is the least one at which at least the share ``reduction`` of singular values is dropped, in the mean
    over matrices; a matrix keeps at least one. So matrices of quickly falling spectra lose much and others little,
    which says which of them are worth training by low rank. Source: Jaiswal et al., From GaLore to WeLore, arXiv
    2407.11239, section 3.

    Args:
        spectra: Name -> singular values, of which one at least is above 0.
        reduction: From 0 up to but not 1.

    Returns:
        The threshold (values at most as large are dropped) and the rank of each.

    Raises:
        UsageError: The reduction is out of range.
    """
    if not 0 <= reduction < 1:
        raise UsageError(f"A rank reduction of {reduction}", expected="a share from 0, below 1")
    scaled = {name: [value / max(values) for value in values] for name, values in spectra.items()}
    threshold, kept = above_one_threshold(scaled, reduction, lambda values: 1 / len(values) / len(scaled))
    return max(threshold, 0.0), kept


def above_one_threshold(
    spectra: Mapping[str, Sequence[float]], drop: float, weight: Callable[[Sequence[float]], float]
) -> tuple[float, dict[str, int]]:
    """The lowest of the values, as a threshold for all, up to which there is enough to drop. Equal values go together.

    This is where bisection on the threshold ends, found by sorting.

    Args:
        spectra: Name -> singular values over the largest of them, so that the first is 1.
        drop: What the dropped values are to weigh together, at least.
        weight: What each value of a spectrum weighs.

    Returns:
        The threshold, below 0 where nothing is to be dropped, and how many values of each lie above it, at least 1.

    >>> above_one_threshold({"flat": [1, 0.9, 0.8], "steep": [1, 0.2, 0.1]}, 2, lambda values: 1)
    (0.2, {'flat': 3, 'steep': 1})
    """
    steps = sorted((value, weight(values)) for values in spectra.values() for value in values)
    threshold, dropped = -1.0, 0.0  # below every value, so that those that are 0 are kept where nothing is asked for
    for value, heavy in steps:
        if dropped >= drop - 1e-12:  # a sum of shares is off by rounding
            break
        threshold, dropped = value, dropped + heavy
    return threshold, {name: max(1, sum(value > threshold for value in values)) for name, values in spectra.items()}


def _svd(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Thin singular value decomposition."""
    import torch

    u, values, vh = torch.linalg.svd(matrix, full_matrices=False)
    return u, values, vh
