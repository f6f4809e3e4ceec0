"""Properties of weight changes: rank, sparsity and intruder dimensions.

A matrix W has the shape (out, in), so its left singular vectors are directions in the output space. The functions
import torch when they are called.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from rerank.errors import ensure

if TYPE_CHECKING:
    from torch import Tensor


def product_singular_values(left: Tensor, right: Tensor) -> Tensor:
    """Compute the singular values of a product of factors, (m, r) and (r, n), without computing the product.

    With Q R = left and Q' R' = right^T, the product is Q (R R'^T) Q'^T. Its singular values are therefore the singular
    values of the small matrix R R'^T. The min(m, n, r) values are in descending order.
    """
    import torch

    _, first = torch.linalg.qr(left)
    _, second = torch.linalg.qr(right.T)
    values: Tensor = torch.linalg.svdvals(first @ second.T)
    return values


def numerical_rank(values: Tensor, size: int, floor: float = 0.0) -> int:
    """Return the number of singular values that exceed the level of rounding errors.

    A singular value sigma (in descending order) counts if sigma > max(size * eps * sigma_1, floor), where size is the
    larger dimension, eps the machine epsilon, and floor bounds the rounding errors of earlier computations. Without
    floor, this is the default of ``matrix_rank`` in numpy and torch.
    """
    import torch

    if not len(values):
        return 0
    return int((values > max(size * torch.finfo(values.dtype).eps * float(values[0]), floor)).sum())


def entropy_rank(values: Tensor) -> float:
    """Compute the effective rank exp(-sum_i p_i log p_i), with p_i = sigma_i / sum_j sigma_j; 0 if all values are 0.

    With k equal nonzero singular values, the effective rank is k. Source: Roy and Vetterli, The effective rank, EUSIPCO
    2007, definition 1.
    """
    if not (total := float(values.double().sum())):
        return 0.0
    shares = values.double() / total
    shares = shares[shares > 0]
    return math.exp(-float((shares * shares.log()).sum()))


def update_sparsity(delta: Tensor, tolerance: float = 1e-5) -> float:
    """Compute the fraction of entries with |d| <= tolerance, which count as unchanged by training.

    Source: Mukherjee et al., arXiv 2505.11711, whose tolerance is 1e-5.
    """
    return float((delta.abs() <= tolerance).double().mean())


def find_intruder_dimensions(before: Tensor, after: Tensor, *, top: int = 10, epsilon: float = 0.5) -> list[int]:
    """Find the leading singular vectors after training that are not similar to any singular vector before training.

    The vector u'_j with j <= top is an intruder dimension if max_i |u_i . u'_j| < epsilon, where ``before`` has the
    left singular vectors of W as columns, and ``after`` those of W + dW, by descending singular value. The result are
    indices of columns. Source: Shuttleworth et al., LoRA vs Full Fine-tuning, arXiv 2410.21228, algorithm 1.
    """
    nearest = (before.T @ after[:, :top]).abs().amax(dim=0)
    return [index for index, cosine in enumerate(nearest.tolist()) if cosine < epsilon]


def shrink_intruder_dimensions(
    weight: Tensor, changed: Tensor, factor: float, *, top: int = 10, epsilon: float = 0.5
) -> tuple[Tensor, int, int]:
    """Multiply the singular values of intruder dimensions of W + dW by ``factor``.

    The result is W + dW + (factor - 1) sum_j sigma_j u_j v_j^T, summed over the intruder dimensions j. Source:
    Shuttleworth et al., arXiv 2410.21228, section 5, where the factor, from 0 (removes intruders) to 1, is called
    lambda. ``weight`` is W, ``changed`` is W + dW, both of shape (m, n). Returns the new matrix, and the numbers of
    intruder dimensions among the leading singular vectors before and after.
    """
    import torch

    before, _, _ = torch.linalg.svd(weight, full_matrices=False)
    u, values, vh = torch.linalg.svd(changed, full_matrices=False)
    if not (indices := find_intruder_dimensions(before, u, top=top, epsilon=epsilon)):
        return changed, 0, 0
    # Only the intruder terms are added, so that all other directions stay free of rounding errors.
    reduced = changed + (factor - 1) * (u[:, indices] * values[indices]) @ vh[indices]
    values[indices] *= factor
    order = values.argsort(descending=True, stable=True)
    return reduced, len(indices), len(find_intruder_dimensions(before, u[:, order], top=top, epsilon=epsilon))


def rank_profile(spectra: Mapping[str, Sequence[float]], reduction: float) -> tuple[float, dict[str, int]]:
    """Compute the rank of each matrix under a common threshold on normalised singular values.

    Singular values are divided by the largest one of their matrix. The threshold is the smallest one for which the
    fraction of dropped values (up to the threshold), averaged over matrices, is at least ``reduction``. A matrix keeps
    at least one value. Matrices that lose many values suit low-rank training. Source: Jaiswal et al., From GaLore to
    WeLore, arXiv 2407.11239, section 3. Also return the rank of each matrix by name.
    """
    ensure(0 <= reduction < 1, f"The rank reduction is {reduction}", expected="a fraction, at least 0 and below 1")
    scaled = {name: [value / max(values) for value in values] for name, values in spectra.items()}
    threshold, ranks = common_threshold(scaled, reduction, lambda values: 1 / len(values) / len(scaled))
    return max(threshold, 0.0), ranks


def common_threshold(
    spectra: Mapping[str, Sequence[float]], drop: float, weight: Callable[[Sequence[float]], float]
) -> tuple[float, dict[str, int]]:
    """Find the smallest common threshold for which the values up to it have a total weight of at least ``drop``.

    ``spectra`` are the singular values of each matrix divided by the largest one; ``weight`` returns the weight of each
    value of a spectrum. Returns the threshold (negative if nothing has to be dropped), and the number of values above
    it by matrix, at least 1. Equal values are dropped together.

    >>> common_threshold({"flat": [1, 0.9, 0.8], "steep": [1, 0.2, 0.1]}, 2, lambda values: 1)
    (0.2, {'flat': 3, 'steep': 1})
    """
    steps = sorted((value, weight(values)) for values in spectra.values() for value in values)
    threshold, dropped = -1.0, 0.0  # below every value, so that zeros are kept if nothing has to be dropped
    for value, value_weight in steps:
        if dropped >= drop - 1e-12:  # tolerance for rounding errors of the sum
            break
        threshold, dropped = value, dropped + value_weight
    return threshold, {name: max(1, sum(value > threshold for value in values)) for name, values in spectra.items()}
