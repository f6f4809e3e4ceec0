"""What a choice found: every size that was tried with its figures, and the smallest that still says the same.

Knows no way of choosing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

#: The figures of a comparison that tables show, in order.
FIGURES = ("tau", "spearman", "max_drop", "recall", "precision", "AA", "missed", "spurious", "AD")


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One size that was tried.

    Attributes:
        size: How many tasks, queries, or documents of each list are left.
        label: What was changed: the task that was dropped, or the size.
        figures: See `rerank.downsampling.goals.compared`; over seeds, their means.
        met: Whether the goal is met; over seeds, whether it is often enough.
        more: What else is known of it.
    """

    size: int
    label: str
    figures: Mapping[str, Any]
    met: bool
    more: Mapping[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Everything in one object."""
        return {"size": self.size, "label": self.label, "met": self.met, **self.more, **self.figures}


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """A smaller benchmark.

    Attributes:
        kind: ``tasks``, ``queries`` or ``pool``.
        whole: Counts of the whole: systems, rows that are tested, pairs, significant pairs.
        steps: What was tried, the largest first.
        chosen: The step that is taken; None where none meets the goal.
        kept: Names of what is left: tasks or queries; empty for pools.
        pairs: Which significant differences are kept, lost, new and reversed by the choice, each [better, worse].
        notes: What a reader must know before believing it.
    """

    kind: str
    whole: Mapping[str, Any]
    steps: tuple[Step, ...]
    chosen: Step | None
    kept: tuple[str, ...] = ()
    pairs: Mapping[str, list[list[str]]]
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """What ``rerank mteb choose --format json`` prints."""
        return {
            "kind": self.kind,
            **self.whole,
            "steps": [step.to_dict() for step in self.steps],
            "chosen": self.chosen.to_dict() if self.chosen else None,
            "kept": list(self.kept),
            "differences": dict(self.pairs),
            "notes": list(self.notes),
        }


def smallest(steps: tuple[Step, ...]) -> Step | None:
    """The smallest size that meets the goal, as do all larger ones; a size that meets it by luck is not taken."""
    found = None
    for step in sorted(steps, key=lambda step: -step.size):
        if not step.met:
            break
        found = step
    return found
