"""Result of reducing a benchmark: all sizes that were tried, and the smallest size that meets the goal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from rerank.io.reports import Grid, Report, format_cell, make_grid

#: Figures in the table of steps, next to those of one kind of benchmark.
_SHOWN = ("tau", "spearman", "AA", "AD", "MA_missed", "MA_spurious", "recall", "precision")


@dataclass(frozen=True, slots=True, kw_only=True)
class ReductionStep:
    """One size of the reduced benchmark that was tried, and how well it preserves conclusions.

    Attributes:
        size: Number of remaining tasks, number of queries, or pool depth.
        label: Name of the removed task, or the size as text.
        figures: Metrics from `rerank.downsampling.goal_metrics.compare_benchmarks`. If there are several draws, the
            means over draws.
        met: Whether the goal is met. If there are several draws, whether it is met in enough of them.
        more: Additional values for reports, such as the number of documents.
    """

    size: int
    label: str
    figures: Mapping[str, Any]
    met: bool
    more: Mapping[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Return the step as one flat JSON object."""
        return {"size": self.size, "label": self.label, "met": self.met, **self.more, **self.figures}


@dataclass(frozen=True, slots=True, kw_only=True)
class ReducedBenchmark(Report):
    """Result of reducing a benchmark: the sizes that were tried, and the chosen size with what it keeps.

    Attributes:
        kind: Part of the benchmark that was reduced: ``tasks``, ``queries`` or ``pool``.
        whole: Numbers of systems, rows, pairs and significant pairs in the full benchmark, and further values that
            depend on ``kind``.
        steps: The sizes that were tried, largest first.
        chosen: The chosen step; None if no step meets the goal.
        kept: Names of the remaining tasks or queries; empty for pools.
        pairs: The significant differences that are kept, lost, new and reversed, each as [better, worse].
        notes: Caveats for the reader.
    """

    rows_key = "steps"

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

    def parts(self) -> Iterator[Grid | str]:
        """Yield a table of the steps, the chosen size and what it keeps."""
        whole, steps = self.whole, [step.to_dict() for step in self.steps]
        yield (
            f"all: {whole['systems']} systems, {whole['rows']} rows, {whole['significant']} of {whole['pairs']} "
            "pairs differ significantly"
        )
        keys = [*(key for key in ("predicted", "draws_that_meet", "documents") if key in steps[0]), *_SHOWN]
        rows = [
            [step["size"], step["label"], "yes" if step["met"] else "no", *(step[key] for key in keys)]
            for step in steps
        ]
        yield make_grid(["size", "change", "met", *(key.replace("_", " ") for key in keys)], rows, digits=3)
        if self.chosen is None:
            yield "no size meets the goal"
        else:
            size = self.chosen.size
            yield f"chosen: {f'k = {size}' if self.kind == 'pool' else f'{size} {self.kind}'}"
            if checked := self.chosen.to_dict().get("held_out"):
                yield "on the held-out systems: " + ", ".join(
                    f"{name} {format_cell(value, 3)}" for name, value in checked.items()
                )
        if self.kept:
            more = len(self.kept) - 20
            yield ", ".join(self.kept[:20]) + (f" and {more} more" if more > 0 else "")
        yield "significant differences: " + ", ".join(f"{len(pairs)} {fate}" for fate, pairs in self.pairs.items())
        yield from (f"note: {text}" for text in self.notes)


def find_smallest_benchmark(steps: tuple[ReductionStep, ...]) -> ReductionStep | None:
    """Return the step with the smallest size such that it and all larger sizes meet the goal.

    If a larger size misses the goal, a smaller size that meets the goal is not chosen: it may meet the goal by chance.
    Return None if the largest size does not meet the goal.
    """
    smallest = None
    for step in sorted(steps, key=lambda step: -step.size):
        if not step.met:
            break
        smallest = step
    return smallest
