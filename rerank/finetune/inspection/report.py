"""One row a changed matrix, and what they come to together. Knows changes (`deltas`), not how adapters make them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from rerank.errors import UsageError
from rerank.finetune.inspection import spectra
from rerank.finetune.inspection.checkpoints import Checkpoint
from rerank.finetune.inspection.deltas import Change, changes, left_out
from rerank.finetune.inspection.subject import FULL, Subject


@dataclass(frozen=True, slots=True, kw_only=True)
class Looking:
    """How to look.

    Attributes:
        top: How many singular vectors are looked at for intruders; 0 leaves them and their decompositions out.
        epsilon: Below that absolute cosine to all old directions, a new one is an intruder.
        tolerance: Entries that moved at most so far count as unchanged.
        reduction: Share of singular values of the untrained matrices that `rank_profile` drops; None for no profile.
        device: Where decompositions are made.

    Raises:
        UsageError: A value out of range.
    """

    top: int = 10
    epsilon: float = 0.5
    tolerance: float = 1e-5
    reduction: float | None = None
    device: str = "cpu"

    def __post_init__(self) -> None:
        """Check the ranges."""
        checks = {
            f"top={self.top}": (self.top >= 0, "0 or more"),
            f"epsilon={self.epsilon}": (0 < self.epsilon <= 1, "a cosine above 0, at most 1"),
            f"tolerance={self.tolerance}": (self.tolerance >= 0, "0 or more"),
            f"reduction={self.reduction}": (self.reduction is None or 0 <= self.reduction < 1, "a share below 1"),
        }
        for what, (right, expected) in checks.items():
            if not right:
                raise UsageError(what, expected=expected)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One changed matrix.

    Attributes:
        name: Its module in the model.
        rows: Of the matrix, as it is stored.
        columns: Likewise.
        norm: Frobenius norm of the change.
        relative: That over the norm of the untrained matrix; None where that is 0.
        rank: Singular values of the change that are more than rounding.
        entropy_rank: exp of their entropy.
        sparsity: Share of entries that did not move.
        intruders: New directions among the first ones; None where they were not looked for.
        profile: Rank that the untrained matrix keeps under the common threshold; None where it was not asked for.
    """

    name: str
    rows: int
    columns: int
    norm: float
    relative: float | None
    rank: int
    entropy_rank: float
    sparsity: float
    intruders: int | None = None
    profile: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspection:
    """What was found.

    Attributes:
        subject: What was looked at.
        looking: How.
        rows: The changed matrices, in the order of layers.
        totals: What they come to; see `total`.
        notes: What a reader must know.
    """

    subject: Subject
    looking: Looking
    rows: tuple[Row, ...]
    totals: Mapping[str, Any]
    notes: tuple[str, ...] = field(default=())

    def to_dict(self) -> dict[str, Any]:
        """What ``rerank inspect --format json`` prints."""
        options = asdict(self.looking)
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


def inspect_subject(subject: Subject, looking: Looking | None = None) -> Inspection:
    """Look at every matrix that training changed.

    Raises:
        DataError: It was trained on another model, or its files are damaged.
        RerankError: What loading raises.
    """
    looking = looking or Looking()
    base = Checkpoint(subject.base)
    rows: list[Row] = []
    before: dict[str, list[float]] = {}
    squares = [0.0, 0.0]
    vectors = 0
    for change in changes(subject, base):
        if min(change.delta.shape) == 1:
            vectors += 1
            continue
        row, values = look(change, looking)
        rows.append(row)
        if values is not None and looking.reduction is not None and values[0] > 0:
            before[row.name] = values
        squares[0] += row.norm**2
        squares[1] += float(change.weight.norm()) ** 2
    totals = total(rows, base, looking) | {"vectors": vectors}
    totals["relative"] = math.sqrt(squares[0] / squares[1]) if squares[1] else None
    if looking.reduction is not None and before:
        totals["threshold"], kept = spectra.rank_profile(before, looking.reduction)
        rows = [_with_profile(row, kept.get(row.name)) for row in rows]
    return Inspection(
        subject=subject, looking=looking, rows=tuple(rows), totals=totals, notes=tuple(_notes(subject, base, rows))
    )


def look(change: Change, looking: Looking) -> tuple[Row, list[float] | None]:
    """One matrix's row, and the singular values of the untrained matrix where they were computed."""
    weight, delta = change.weight.to(looking.device), change.delta.to(looking.device)
    if change.factors is None:
        values = spectra.spectrum(delta)
    else:
        left, right = change.factors
        values = spectra.factor_spectrum(left.to(looking.device), right.to(looking.device))
    old: list[float] | None = None
    found: int | None = None
    if looking.top or looking.reduction is not None:
        directions, sigma = spectra.left_vectors(weight)
        old = sigma.tolist()
        if looking.top:
            after, _ = spectra.left_vectors(weight + delta)
            found = len(spectra.intruders(directions, after, top=looking.top, epsilon=looking.epsilon))
    norm, size = float(delta.norm()), float(weight.norm())
    row = Row(
        name=change.name,
        rows=delta.shape[0],
        columns=delta.shape[1],
        norm=norm,
        relative=norm / size if size else None,
        rank=spectra.numerical_rank(values, max(delta.shape), change.floor),
        entropy_rank=spectra.entropy_rank(values),
        sparsity=spectra.sparsity(delta, looking.tolerance),
        intruders=found,
    )
    return row, old


def total(rows: Iterable[Row], base: Checkpoint, looking: Looking) -> dict[str, Any]:
    """What the rows come to.

    Returns:
        ``matrices`` that changed, ``unchanged`` ones of the model, ``parameters`` in the changed ones, ``sparsity``
        over these and ``sparsity_of_model`` over all matrices, ``mean_rank``, ``mean_entropy_rank``, ``intruders`` and
        ``with_intruders`` (matrices that have one).
    """
    listed = list(rows)
    sizes = [row.rows * row.columns for row in listed]
    still = sum(row.sparsity * size for row, size in zip(listed, sizes, strict=True))
    shapes = [base.shape(name) for name in base]
    matrices = [math.prod(shape) for shape in shapes if len(shape) == 2 and min(shape) > 1]
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
        "intruders": sum(counts) if looking.top else None,
        "with_intruders": sum(map(bool, counts)) if looking.top else None,
    }


def _with_profile(row: Row, kept: int | None) -> Row:
    return Row(**asdict(row) | {"profile": kept})


def _notes(subject: Subject, base: Checkpoint, rows: list[Row]) -> Iterable[str]:
    if not rows:
        yield "No matrix was changed: this is the untrained model, or an adapter that was not trained"
    if subject.kind != FULL:
        stored = Checkpoint(subject.folder / "adapter_model.safetensors")
        lacking = left_out(stored, base, subject.config)
        if lacking:
            yield (
                f"The adapter's settings name {len(lacking)} matrices of this model that it has nothing for, the first "
                f"of them {lacking[0]}: it may be of another model"
            )
