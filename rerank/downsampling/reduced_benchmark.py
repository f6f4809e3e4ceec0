"""Results of reducing a benchmark: every size that was tried, and the smallest one that meets the goal."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

#: Metrics of a comparison that tables show, in order.
FIGURES = ("tau", "spearman", "max_drop", "recall", "precision", "AA", "missed", "spurious", "AD")


@dataclass(frozen=True, slots=True, kw_only=True)
class ReductionStep:
    """A size that was tried, with the metrics of the reduced benchmark.

    Attributes:
        size: Number of remaining tasks, of queries, or of documents per ranking.
        label: The change: the removed task, or the size.
        figures: Metrics of `rerank.downsampling.goal_metrics.compare_benchmarks`; with several draws, their
            means.
        met: Whether the goal is met; with several draws, whether it is met often enough.
        more: Additional values.
    """

    size: int
    label: str
    figures: Mapping[str, Any]
    met: bool
    more: Mapping[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Return all values in one object."""
        return {"size": self.size, "label": self.label, "met": self.met, **self.more, **self.figures}


@dataclass(frozen=True, slots=True, kw_only=True)
class ReducedBenchmark:
    """A reduced benchmark.

    Attributes:
        kind: ``tasks``, ``queries`` or ``pool``.
        whole: Counts of the full benchmark: systems, tested rows, pairs, significant pairs.
        steps: The sizes that were tried, largest first.
        chosen: The chosen step; None if none meets the goal.
        kept: Names of the remaining tasks or queries; empty for pools.
        pairs: Significant differences that are kept, lost, new and reversed, each as [better, worse].
        notes: Caveats for the reader.
    """

    kind: str
    whole: Mapping[str, Any]
    steps: tuple[ReductionStep, ...]
    chosen: ReductionStep | None
    kept: tuple[str, ...] = ()
    pairs: Mapping[str, list[list[str]]]
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON object of ``rerank mteb choose --format json``."""
        return {
            "kind": self.kind,
            **self.whole,
            "steps": [step.to_dict() for step in self.steps],
            "chosen": self.chosen.to_dict() if self.chosen else None,
            "kept": list(self.kept),
            "differences": dict(self.pairs),
            "notes": list(self.notes),
        }


def find_smallest_benchmark(steps: tuple[ReductionStep, ...]) -> ReductionStep | None:
    """Return the smallest size such that it and all larger sizes meet the goal; None if the largest size does not.

    A size that meets the goal by luck, although a larger one does not, is not chosen.
    """
    smallest = None
    for step in sorted(steps, key=lambda step: -step.size):
        if not step.met:
            break
        smallest = step
    return smallest
