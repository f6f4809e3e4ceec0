"""Conclusions of a reduced benchmark: their comparison with those of the full benchmark, goals, and the result.

The metrics are the same as for cheaper judgments (`rerank.adjudication`). The full benchmark takes the role of the gold
judgments, and the reduced benchmark the role of the cheap judgments.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations, takewhile
from typing import Any

import numpy as np

from rerank.adjudication.conclusions import NAMES, Procedure, SignificanceVerdicts, comparison_row
from rerank.errors import ensure
from rerank.evaluation.significance.base import Floats
from rerank.io.reports import Grid, Report, format_cell, make_grid

#: Names of the pair categories of each outcome, for pairs that differ significantly in at least one benchmark.
_OUTCOMES = {
    "kept": ("AA",),
    "lost": ("MA_missed", "MD_missed"),
    "new": ("MA_spurious", "MD_spurious"),
    "reversed": ("AD",),
}
#: Figures in the table of steps, next to those of one kind of benchmark.
_SHOWN = ("tau", "spearman", "AA", "AD", "MA_missed", "MA_spurious", "recall", "precision")


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """Minimum values, from 0 to 1, that a reduced benchmark must reach. None means that there is no minimum."""

    #: Kendall's tau-b between the systems' means in the reduced and in the full benchmark.
    tau: float | None = 0.9
    #: Fraction of the significant differences in the full benchmark that the reduced one finds, in the same direction.
    recall: float | None = None
    #: Fraction of the significant differences in the reduced benchmark that the full one confirms.
    precision: float | None = None

    @property
    def _minimums(self) -> dict[str, float]:
        values = {"tau": self.tau, "recall": self.recall, "precision": self.precision}
        return {name: value for name, value in values.items() if value is not None}

    def __post_init__(self) -> None:
        for name, value in self._minimums.items():
            ensure(0 <= value <= 1, f"The minimum {name} is {value}", expected="a number from 0 to 1")
        ensure(self._minimums, "The goal has no minimum", expected="a minimum of tau, recall or precision")

    def is_met(self, figures: dict[str, Any]) -> bool:
        """Return whether the metrics of `compare` reach the goal; an undefined recall or precision (0 / 0) does."""
        # tau is undefined for a ranking with only ties; such a ranking does not meet the goal
        return all(
            (figures[name] is None and name != "tau") or (figures[name] or 0.0) >= minimum - 1e-12
            for name, minimum in self._minimums.items()
        )


@dataclass(frozen=True, kw_only=True)
class SignificanceCriterion:
    """The test that decides whether two systems differ significantly."""

    procedure: Procedure = field(default_factory=lambda: Procedure("t", "bh"))  #: The paired test and its correction.
    alpha: float = 0.05  #: Significance level.


def verdicts_of(values: Floats, systems: Sequence[str], criterion: SignificanceCriterion) -> SignificanceVerdicts:
    """Test every pair of systems on scores (tasks or queries, systems). With one row, none is significant."""
    names = tuple(systems)
    if len(values) < 2:
        return SignificanceVerdicts(values, names, (np.zeros(len(names) * (len(names) - 1) // 2, dtype=np.bool_),))
    return SignificanceVerdicts.from_scores(values, names, [criterion.procedure], criterion.alpha)


def count_pairs(whole: SignificanceVerdicts) -> dict[str, int]:
    """Return the numbers of systems, rows (tasks or queries), pairs and significant pairs in the full benchmark."""
    return {
        "systems": len(whole.systems),
        "rows": len(whole.values),
        "pairs": len(whole.differences),
        "significant": int(whole.significant[0].sum()),
    }


def compare(gold: SignificanceVerdicts, cheap: SignificanceVerdicts) -> dict[str, Any]:
    """Compare a reduced benchmark (``cheap``) with the full one (``gold``): pair categories, rates, similarities."""
    (codes,) = cheap.categorise_against(gold)
    return {**comparison_row(codes, cheap.compare_ranking(gold)), "spearman": spearman(gold.means, cheap.means)}


def spearman(first: Floats, second: Floats) -> float | None:
    """Compute Spearman's rank correlation of the systems' means; None if all means in either array are equal."""
    from scipy.stats import rankdata

    # after rounding, means that differ only by rounding errors are tied
    ranks = np.asarray(rankdata(np.round([first, second], 12), axis=1))
    return None if (np.ptp(ranks, axis=1) == 0).any() else round(float(np.atleast_2d(np.corrcoef(ranks))[0, 1]), 12)


def pairs_by_outcome(gold: SignificanceVerdicts, cheap: SignificanceVerdicts) -> dict[str, list[list[str]]]:
    """Return kept, lost, new and reversed pairs as [better, worse] in the full benchmark, or in the reduced if new."""
    (codes,) = cheap.categorise_against(gold)
    pairs: dict[str, list[list[str]]] = {}
    for outcome, categories in _OUTCOMES.items():
        finder, selected = cheap if outcome == "new" else gold, [NAMES.index(category) for category in categories]
        pairs[outcome] = [
            [a, b] if difference >= 0 else [b, a]
            for (a, b), code, difference in zip(combinations(finder.systems, 2), codes, finder.differences, strict=True)
            if code in selected
        ]
    return pairs


@dataclass(frozen=True, slots=True, kw_only=True)
class ReductionStep:
    """One size of the reduced benchmark that was tried, and how well it preserves conclusions."""

    size: int  #: Number of remaining tasks, number of queries, or pool depth.
    label: str  #: Name of the removed task, or the size as text.
    figures: Mapping[str, Any]  #: Metrics from `compare`. If there are several draws, the means over draws.
    met: bool  #: Whether the goal is met. If there are several draws, whether it is met in enough of them.
    more: Mapping[str, Any]  #: Additional values for reports, such as the number of documents.

    def to_dict(self) -> dict[str, Any]:
        return {"size": self.size, "label": self.label, "met": self.met, **self.more, **self.figures}


@dataclass(frozen=True, slots=True, kw_only=True)
class ReducedBenchmark(Report):
    """Result of reducing a benchmark: the sizes that were tried, and the chosen size with what it keeps."""

    rows_key = "steps"

    kind: str  #: Part of the benchmark that was reduced: ``tasks``, ``queries`` or ``pool``.
    #: Numbers of systems, rows, pairs and significant pairs in the full benchmark, and values that depend on ``kind``.
    whole: Mapping[str, Any]
    steps: tuple[ReductionStep, ...]  #: The sizes that were tried, largest first.
    chosen: ReductionStep | None  #: None if no step meets the goal.
    kept: tuple[str, ...] = ()  #: Names of the remaining tasks or queries; empty for pools.
    #: The significant differences that are kept, lost, new and reversed, each as [better, worse].
    pairs: Mapping[str, list[list[str]]]
    notes: tuple[str, ...] = ()  #: Caveats for the reader.

    def to_dict(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            **self.whole,
            "steps": [step.to_dict() for step in self.steps],
            "chosen": self.chosen.to_dict() if self.chosen else None,
            "kept": list(self.kept),
            "differences": dict(self.pairs),
            "notes": list(self.notes),
        }

    def parts(self) -> Iterator[Grid | str]:
        whole, steps = self.whole, [step.to_dict() for step in self.steps]
        yield (
            f"all: {whole['systems']} systems, {whole['rows']} rows, {whole['significant']} of {whole['pairs']} "
            "pairs differ significantly"
        )
        keys = [*(key for key in ("predicted", "draws_that_meet", "documents") if key in steps[0]), *_SHOWN]
        rows = [[s["size"], s["label"], "yes" if s["met"] else "no", *(s[key] for key in keys)] for s in steps]
        yield make_grid(["size", "change", "met", *(key.replace("_", " ") for key in keys)], rows, digits=3)
        if self.chosen is None:
            yield "no size meets the goal"
        else:
            size = self.chosen.size
            yield f"chosen: {f'k = {size}' if self.kind == 'pool' else f'{size} {self.kind}'}"
            if checked := self.chosen.to_dict().get("held_out"):
                figures = (f"{name} {format_cell(value, 3)}" for name, value in checked.items())
                yield f"on the held-out systems: {', '.join(figures)}"
        if self.kept:
            more = len(self.kept) - 20
            yield ", ".join(self.kept[:20]) + (f" and {more} more" if more > 0 else "")
        yield "significant differences: " + ", ".join(f"{len(pairs)} {fate}" for fate, pairs in self.pairs.items())
        yield from (f"note: {text}" for text in self.notes)


def find_smallest(steps: tuple[ReductionStep, ...]) -> ReductionStep | None:
    """Return the smallest step such that it and all larger ones meet the goal: others may meet it by chance."""
    meeting = list(takewhile(lambda step: step.met, sorted(steps, key=lambda step: -step.size)))
    return meeting[-1] if meeting else None
