"""Order robustness: run one method on candidates in several orders, at several depths and from several first stages.

A robust method returns the same ranking for every input order. Each run has its own run folder, which `rerank run`
with the same settings would also create and reuse.
"""

from __future__ import annotations

from bisect import bisect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rerank.errors import UsageError
from rerank.experiment.estimate import estimate_run_cost
from rerank.experiment.execute import default_run_folder, execute_run
from rerank.experiment.prepare import PreparedRun, prepare_run
from rerank.experiment.spec import Execution, RunSpec
from rerank.store import RunFolder, hash_run_folder_identity
from rerank.types import Run

#: A function that executes one prepared run and returns its summary, such as `execute_run`.
Runner = Callable[[PreparedRun, Execution], dict[str, Any]]
#: Number of top documents whose overlap between two results is measured.
TOP = 10
#: Keys of a run's summary that reports repeat.
SUMMARY_KEYS = ("folder", "scores", "failure_rate", "calls", "reused_calls", "tokens_in", "tokens_out", "seconds")


@dataclass(frozen=True, slots=True)
class RobustnessCell:
    """The prepared runs of one first stage at one depth, one per order; the first run keeps the first-stage order."""

    first_stage: str
    depth: int
    runs: tuple[PreparedRun, ...]


def vary_candidate_order(spec: RunSpec, shuffles: int) -> list[RunSpec]:
    """Return specifications with first-stage order, reversed order, and random orders with seeds from ``spec.seed`` on.

    Args:
        spec: The specification.
        shuffles: Number of random orders.
    """
    if shuffles < 0:
        raise UsageError(f"The number of shuffles is {shuffles}", expected="at least 0")
    if spec.shuffle != "none":
        raise UsageError(
            f"--shuffle {spec.shuffle} cannot be used with rerank robustness",
            expected="no --shuffle, since the command tries all orders",
            remedy="Omit --shuffle; --shuffles sets the number of random orders and --seed their first seed",
        )
    inverse = spec.model_copy(update={"shuffle": "inverse"})
    random = [spec.model_copy(update={"shuffle": "random", "seed": spec.seed + i}) for i in range(shuffles)]
    return [spec, inverse, *random]


def candidate_order_name(spec: RunSpec) -> str:
    """Return the name of a specification's order: ``given``, ``reversed`` or ``shuffled SEED``."""
    return {"none": "given", "inverse": "reversed", "random": f"shuffled {spec.seed}"}[spec.shuffle]


def prepare_robustness_cells(
    spec: RunSpec,
    execution: Execution,
    *,
    depths: Sequence[int] = (),
    first_stages: Sequence[str] = (),
    shuffles: int = 3,
) -> Iterator[RobustnessCell]:
    """Prepare all runs, cell by cell (first stage and depth), with one shared backend; the model is not called.

    Args:
        spec: The specification, with the depth and the first stage of the first cell.
        execution: Options for execution.
        depths: Additional depths.
        first_stages: Additional first stages.
        shuffles: Number of random orders.
    """
    backend = None
    for first_stage in dict.fromkeys((spec.first_stage, *first_stages)):
        for depth in dict.fromkeys((spec.depth, *depths)):
            # Pass on only the values that the user set, so that the adapter's settings apply to all others.
            given = spec.model_dump(include=spec.model_fields_set)
            values = given | {"first_stage": first_stage, "depth": depth}
            vary_candidate_order(spec, shuffles)  # checks its arguments before anything is retrieved
            # All orders have the same candidates, which are therefore retrieved only once.
            prepared = prepare_run(RunSpec.make(values), execution, backend=backend)
            backend = prepared.backend
            runs = tuple(prepared.with_spec(order) for order in vary_candidate_order(prepared.spec, shuffles))
            yield RobustnessCell(first_stage, depth, runs)


def measure_order_robustness(
    cells: Sequence[RobustnessCell], execution: Execution, *, run: Runner = execute_run
) -> dict[str, Any]:
    """Run every cell (first stage and depth) in every order, and measure the effect of the order.

    Args:
        cells: The prepared runs.
        execution: Options for execution; ``out`` is the parent of the run folders, ``runs/`` if it is None.
        run: Function that executes a run.

    Returns:
        ``method``, ``model`` and ``cells``: ``first_stage``, ``depth``, ``queries``, ``first_stage_scores``,
        ``orders``, ``spread`` (best minus worst score per measure; 0 is good) and ``worst`` (the order with the worst
        score per measure). A row of ``orders`` has ``order``, ``scores``, ``tau`` and ``overlap`` as in
        `compute_shuffle_agreement`, and the cost of the run.
    """
    rows = [_measure_robustness_cell(cell, execution, run) for cell in cells]
    spec = cells[0].runs[0].spec
    return {"method": spec.method, "model": spec.model, "cells": rows}


def estimate_robustness_cells(cells: Sequence[RobustnessCell]) -> dict[str, Any]:
    """Return the totals ``runs``, ``calls``, ``tokens_in``, ``tokens_out`` and ``cost``, as estimated for each run."""
    estimates = [estimate_run_cost(prepared) for cell in cells for prepared in cell.runs]
    sums: dict[str, Any] = {key: sum(row[key] for row in estimates) for key in ("calls", "tokens_in", "tokens_out")}
    costs = [row["cost"] for row in estimates]
    return {"runs": len(estimates), **sums, "cost": None if None in costs else sum(costs)}


def compute_shuffle_agreement(run: Run, reference: Run) -> dict[str, float | None]:
    """Measure the agreement of two results for the same candidates, averaged over queries; 1 means the same order.

    Returns:
        ``tau``: Kendall's tau of the whole lists, averaged over queries with at least two documents. ``overlap``: the
        fraction of the top ten documents that both results share, averaged over queries with more than ten documents.
        A value is None if no query has enough documents.
    """
    pairs = [(run[query].doc_ids, reference[query].doc_ids) for query in reference]
    taus = [robustness_kendall_tau(a, b) for a, b in pairs if len(a) > 1]
    overlaps = [len({*a[:TOP]} & {*b[:TOP]}) / TOP for a, b in pairs if len(a) > TOP]
    return {"tau": _mean_over_orders(taus), "overlap": _mean_over_orders(overlaps)}


def robustness_kendall_tau(a: Sequence[str], b: Sequence[str]) -> float:
    """Compute Kendall's tau of two orders of the same items (two or more): 1 if they are equal, -1 if reversed."""
    rank = {item: position for position, item in enumerate(a)}
    earlier: list[int] = []  # the ranks in ``a`` of the items of ``b`` seen so far, sorted
    discordant = 0
    for item in b:
        # Items that come earlier in b but later in a form discordant pairs with this one.
        index = bisect(earlier, rank[item])
        discordant += len(earlier) - index
        earlier.insert(index, rank[item])
    # tau = (concordant - discordant) / pairs = 1 - 2 * discordant / (n (n - 1) / 2)
    return 1 - 4 * discordant / (len(b) * (len(b) - 1))


def execute_robustness_run(prepared: PreparedRun, execution: Execution, run: Runner) -> tuple[dict[str, Any], Run]:
    """Execute a run in its own folder under ``execution.out`` or ``runs/``, and return its summary and its result."""
    name = default_run_folder(prepared.spec, hash_run_folder_identity(prepared.identity())).name
    summary = run(prepared, execution.model_copy(update={"out": (execution.out or Path("runs")) / name}))
    return summary, RunFolder(summary["folder"]).read_run("run.trec")


def _measure_robustness_cell(cell: RobustnessCell, execution: Execution, run: Runner) -> dict[str, Any]:
    rows: list[dict[str, Any]] = []
    reference: Run | None = None
    first_stage_scores: dict[str, float] = {}
    for prepared in cell.runs:
        summary, result = execute_robustness_run(prepared, execution, run)
        reference = result if reference is None else reference
        first_stage_scores = summary["first_stage_scores"]
        values = {key: summary[key] for key in SUMMARY_KEYS}
        rows.append(
            {"order": candidate_order_name(prepared.spec), **compute_shuffle_agreement(result, reference), **values}
        )
    by_measure = {measure: [row["scores"][measure] for row in rows] for measure in first_stage_scores}
    return {
        "first_stage": cell.first_stage,
        "depth": cell.depth,
        "queries": len(cell.runs[0].first_stage),
        "first_stage_scores": first_stage_scores,
        "orders": rows,
        "spread": {measure: max(values) - min(values) for measure, values in by_measure.items()},
        "worst": {measure: rows[values.index(min(values))]["order"] for measure, values in by_measure.items()},
    }


def _mean_over_orders(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
