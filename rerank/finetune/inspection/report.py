"""Report how training changed the weights of a model: one report per changed matrix, and totals."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from rerank.errors import ensure
from rerank.finetune.inspection import spectra
from rerank.finetune.inspection.checkpoints import (
    FULL,
    CheckpointReader,
    InspectedModel,
    WeightChange,
    iterate_weight_changes,
    missing_adapter_modules,
)
from rerank.io.reports import Grid, Report, format_cell, make_grid


@dataclass(frozen=True, slots=True, kw_only=True)
class InspectionOptions:
    """Options for the inspection of how training changed the weights of a model."""

    #: Number of leading singular vectors that are checked for intruder dimensions; 0 skips the check and its SVDs.
    top: int = 10
    epsilon: float = 0.5  #: Cosine threshold below which a singular vector counts as an intruder dimension.
    tolerance: float = 1e-5  #: Entries that changed by at most this value count as unchanged.
    #: Fraction of the untrained singular values that `spectra.rank_profile` drops; None for no rank profile.
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
    profile: int | None = None  #: Rank of the untrained matrix in `spectra.rank_profile`; None if not computed.


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
        totals["threshold"], ranks = spectra.rank_profile(before, options.reduction)
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
        values = spectra.product_singular_values(left.to(options.device), right.to(options.device))
    old: list[float] | None = None
    count: int | None = None
    if options.top or options.reduction is not None:
        directions, sigma, _ = torch.linalg.svd(weight, full_matrices=False)
        old = sigma.tolist()
        if options.top:
            after, _, _ = torch.linalg.svd(weight + delta, full_matrices=False)
            count = len(spectra.find_intruder_dimensions(directions, after, top=options.top, epsilon=options.epsilon))
    norm, size = float(delta.norm()), float(weight.norm())
    row = MatrixReport(
        name=change.name,
        rows=delta.shape[0],
        columns=delta.shape[1],
        norm=norm,
        relative=norm / size if size else None,
        rank=spectra.numerical_rank(values, max(delta.shape), change.floor),
        entropy_rank=spectra.entropy_rank(values),
        sparsity=spectra.update_sparsity(delta, options.tolerance),
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
