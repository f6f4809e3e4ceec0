"""Report how training changed the weights of a model: one report per changed matrix, and totals.

A matrix W has the shape (out, in), so its left singular vectors are directions in the output space. The functions
import torch when they are called.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from rerank.errors import ensure
from rerank.finetune.inspection.checkpoints import (
    FULL,
    CheckpointReader,
    InspectedModel,
    WeightChange,
    iterate_weight_changes,
    missing_adapter_modules,
)
from rerank.io.reports import Grid, Report, format_cell, make_grid

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class InspectionOptions:
    """Options for the inspection of how training changed the weights of a model."""

    #: Number of leading singular vectors that are checked for intruder dimensions; 0 skips the check and its SVDs.
    top: int = 10
    epsilon: float = 0.5  #: Cosine threshold below which a singular vector counts as an intruder dimension.
    tolerance: float = 1e-5  #: Entries that changed by at most this value count as unchanged.
    #: Fraction of the untrained singular values that `rank_profile` drops; None for no rank profile.
    reduction: float | None = None
    device: str = "cpu"  #: Torch device for the singular value decompositions.

    def __post_init__(self) -> None:
        ensure(self.top >= 0, f"top is {self.top}", expected="0 or more")
        ensure(0 < self.epsilon <= 1, f"epsilon is {self.epsilon}", expected="a cosine above 0 and at most 1")
        ensure(self.tolerance >= 0, f"tolerance is {self.tolerance}", expected="0 or more")
        ensure(
            self.reduction is None or 0 <= self.reduction < 1,
            f"reduction is {self.reduction}",
            expected="a fraction, at least 0 and below 1",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class MatrixReport:
    """Report on one matrix that training changed: size, rank and sparsity of the change."""

    name: str
    rows: int
    columns: int
    norm: float  #: Frobenius norm of the change.
    #: Norm of the change divided by the norm of the untrained matrix; None if the untrained matrix is 0.
    relative: float | None
    rank: int
    entropy_rank: float  #: Effective rank of the change: exp of the entropy of its singular values.
    sparsity: float  #: Fraction of unchanged entries.
    #: Number of intruder dimensions among the leading singular vectors; None if not computed.
    intruders: int | None = None
    profile: int | None = None  #: Rank of the untrained matrix in `rank_profile`; None if not computed.


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspection(Report):
    """Result of inspecting a trained model: reports on its changed matrices in layer order, totals and warnings."""

    rows_key = "matrices"

    subject: InspectedModel
    options: InspectionOptions
    rows: tuple[MatrixReport, ...]
    totals: Mapping[str, Any]  #: As returned by `summarise_rows`.
    notes: tuple[str, ...] = field(default=())

    def to_dict(self) -> dict[str, Any]:
        options = asdict(self.options)
        del options["device"]
        return {
            "adapter": str(self.subject.folder),
            "base": str(self.subject.base),
            "kind": self.subject.kind,
            "options": options,
            "matrices": [asdict(row) for row in self.rows],
            "totals": dict(self.totals),
            "notes": list(self.notes),
        }

    def parts(self) -> Iterator[Grid | str]:
        heads = ["matrix", "rows", "columns", "|d|/|W|", "rank", "entropy rank", "unmoved", "intruders"]
        profile = self.options.reduction is not None
        rows = [
            [
                *(row.name, row.rows, row.columns, row.relative, row.rank),
                *(format_cell(row.entropy_rank, 1), format_cell(row.sparsity, 3), row.intruders),
                *([row.profile] if profile else []),
            ]
            for row in self.rows
        ]
        yield make_grid([*heads, *(["profile"] if profile else [])], rows)
        totals = self.totals
        if not totals["matrices"]:
            return
        yield (
            f"{totals['matrices']} matrices changed, {totals['unchanged']} not, {totals['vectors']} vectors changed; "
            f"|d|/|W| {format_cell(totals['relative'])}, mean rank {format_cell(totals['mean_rank'], 1)}"
        )
        yield (
            f"unmoved: {format_cell(totals['sparsity'], 3)} of the entries of changed matrices, "
            f"{format_cell(totals['sparsity_of_model'], 3)} of the entries of all matrices"
        )
        if self.options.top:
            yield f"intruders: {totals['intruders']}, in {totals['with_intruders']} of {totals['matrices']} matrices"


def inspect_trained_matrices(subject: InspectedModel, options: InspectionOptions | None = None) -> Inspection:
    """Inspect every matrix that training changed, and summarise the results."""
    options = options or InspectionOptions()
    base = CheckpointReader(subject.base)
    rows: list[MatrixReport] = []
    before: dict[str, list[float]] = {}
    squares = [0.0, 0.0]  # squared norms of the changes, and of the untrained matrices
    vectors = 0
    for change in iterate_weight_changes(subject, base):
        if min(change.delta.shape) == 1:
            vectors += 1
            continue
        row, values = inspect_matrix(change, options)
        rows.append(row)
        if values is not None and options.reduction is not None and values[0] > 0:
            before[row.name] = values
        squares[0] += row.norm**2
        squares[1] += float(change.weight.norm()) ** 2
    totals = summarise_rows(rows, base, options) | {"vectors": vectors}
    totals["relative"] = math.sqrt(squares[0] / squares[1]) if squares[1] else None
    if options.reduction is not None and before:
        totals["threshold"], ranks = rank_profile(before, options.reduction)
        rows = [replace(row, profile=ranks.get(row.name)) for row in rows]
    notes = []
    if not rows:
        notes.append("No matrix was changed: this is the untrained model, or an untrained adapter")
    if subject.kind != FULL and (missing := missing_adapter_modules(subject.tensors(), base, subject.config)):
        notes.append(
            f"The adapter targets {len(missing)} matrices of this model for which it has no weights (the first is "
            f"{missing[0]}), so it may belong to another model"
        )
    return Inspection(subject=subject, options=options, rows=tuple(rows), totals=totals, notes=tuple(notes))


def inspect_matrix(change: WeightChange, options: InspectionOptions) -> tuple[MatrixReport, list[float] | None]:
    """Return the report on one matrix, and its untrained singular values if the options need them."""
    import torch

    weight, delta = change.weight.to(options.device), change.delta.to(options.device)
    if change.factors is None:
        values = torch.linalg.svdvals(delta)
    else:
        left, right = change.factors
        values = product_singular_values(left.to(options.device), right.to(options.device))
    old: list[float] | None = None
    count: int | None = None
    if options.top or options.reduction is not None:
        directions, sigma, _ = torch.linalg.svd(weight, full_matrices=False)
        old = sigma.tolist()
        if options.top:
            after, _, _ = torch.linalg.svd(weight + delta, full_matrices=False)
            count = len(find_intruder_dimensions(directions, after, top=options.top, epsilon=options.epsilon))
    norm, size = float(delta.norm()), float(weight.norm())
    row = MatrixReport(
        name=change.name,
        rows=delta.shape[0],
        columns=delta.shape[1],
        norm=norm,
        relative=norm / size if size else None,
        rank=numerical_rank(values, max(delta.shape), change.floor),
        entropy_rank=entropy_rank(values),
        sparsity=update_sparsity(delta, options.tolerance),
        intruders=count,
    )
    return row, old


def summarise_rows(rows: Iterable[MatrixReport], base: CheckpointReader, options: InspectionOptions) -> dict[str, Any]:
    """Compute totals over the reports of all matrices, and over the unchanged matrices.

    ``parameters`` is the number of entries of changed matrices, ``sparsity`` the fraction of unchanged entries in them
    and ``sparsity_of_model`` that in all matrices, ``with_intruders`` the number of matrices with intruder dimensions.
    """
    listed = list(rows)
    sizes = [row.rows * row.columns for row in listed]
    still = sum(row.sparsity * size for row, size in zip(listed, sizes, strict=True))
    matrices = [math.prod(shape) for shape in [base.shape(name) for name in base] if len(shape) == 2 and min(shape) > 1]
    everything = max(sum(matrices), sum(sizes))
    counts = [row.intruders or 0 for row in listed]
    return {
        "matrices": len(listed),
        "unchanged": max(0, len(matrices) - len(listed)),
        "parameters": sum(sizes),
        "sparsity": still / sum(sizes) if listed else None,
        "sparsity_of_model": 1 - (sum(sizes) - still) / everything if everything else None,
        "mean_rank": sum(row.rank for row in listed) / len(listed) if listed else None,
        "mean_entropy_rank": sum(row.entropy_rank for row in listed) / len(listed) if listed else None,
        "intruders": sum(counts) if options.top else None,
        "with_intruders": sum(map(bool, counts)) if options.top else None,
    }


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
