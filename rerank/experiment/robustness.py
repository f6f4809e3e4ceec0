"""Order robustness: the same run over other orders of its candidates, over depths and over first stages.

A method that reads its candidates should not care in which order they come. Each run has a folder of its own, which
`rerank run` would make and answer from as well. Knows runs and their results, not how they are made or printed.
"""

from __future__ import annotations

from bisect import bisect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rerank.errors import UsageError
from rerank.experiment.estimate import estimate
from rerank.experiment.execute import default_folder, execute
from rerank.experiment.prepare import Prepared, prepare
from rerank.experiment.spec import Execution, RunSpec
from rerank.store import RunFolder, identity_hash
from rerank.types import Run

#: Executes one prepared run and returns its summary, as `rerank.experiment.execute` does.
Runner = Callable[[Prepared, Execution], dict[str, Any]]
#: How many of the best the overlap is about.
TOP = 10
_KEPT = ("folder", "scores", "failure_rate", "calls", "reused_calls", "tokens_in", "tokens_out", "seconds")


@dataclass(frozen=True, slots=True)
class Cell:
    """One first stage at one depth, prepared in every order; the given order is the first."""

    first_stage: str
    depth: int
    runs: tuple[Prepared, ...]


def orders(spec: RunSpec, shuffles: int) -> list[RunSpec]:
    """The specification in the given order, reversed, and shuffled so many times, from ``spec.seed`` on.

    Raises:
        UsageError: ``shuffles`` below 0, or the specification has an order of its own.
    """
    if shuffles < 0:
        raise UsageError(f"{shuffles} shuffles", expected="at least 0")
    if spec.shuffle != "none":
        raise UsageError(
            f"--shuffle {spec.shuffle} with rerank robustness",
            expected="no order, since all of them are tried",
            remedy="Leave it out; --shuffles says how many random orders there are, --seed where they start",
        )
    turned = spec.model_copy(update={"shuffle": "inverse"})
    mixed = [spec.model_copy(update={"shuffle": "random", "seed": spec.seed + at}) for at in range(shuffles)]
    return [spec, turned, *mixed]


def order_name(spec: RunSpec) -> str:
    """``given``, ``reversed`` or ``shuffled SEED``."""
    return {"none": "given", "inverse": "reversed", "random": f"shuffled {spec.seed}"}[spec.shuffle]


def prepare_cells(
    spec: RunSpec,
    execution: Execution,
    *,
    depths: Sequence[int] = (),
    first_stages: Sequence[str] = (),
    shuffles: int = 3,
) -> Iterator[Cell]:
    """Prepare every run, one cell after the other, with one backend; asks the model nothing.

    Args:
        spec: What is run; its own depth and first stage are the first cell.
        execution: How.
        depths: Further depths.
        first_stages: Further first stages.
        shuffles: Random orders.

    Raises:
        RerankError: What `prepare` or `orders` raises.
    """
    backend = None
    for first_stage in dict.fromkeys((spec.first_stage, *first_stages)):
        for depth in dict.fromkeys((spec.depth, *depths)):
            values = spec.model_dump() | {"first_stage": first_stage, "depth": depth}
            specs = orders(RunSpec.make(values), shuffles)
            # Orders differ in nothing but the specification, so the lists are fetched once.
            prepared = prepare(specs[0], execution, backend=backend)
            backend = prepared.backend
            yield Cell(first_stage, depth, tuple(replace(prepared, spec=one) for one in specs))


def robustness(cells: Sequence[Cell], execution: Execution, *, run: Runner = execute) -> dict[str, Any]:
    """Run every cell in every order and say how much the order matters.

    Args:
        cells: What to run.
        execution: How; ``out`` is the folder in which the runs' folders go, ``runs/`` if left out.
        run: Who executes a run.

    Returns:
        ``method``, ``model`` and ``cells``: ``first_stage``, ``depth``, ``queries``, ``first_stage_scores``,
        ``orders``, ``spread`` (a measure's best score less its worst; 0 is good) and ``worst`` (the order with the
        worst score). A row of ``orders`` has ``order``, ``scores``, ``tau`` and ``overlap`` (see `agreement`) and what
        the run took.
    """
    rows = [_cell(cell, execution, run) for cell in cells]
    spec = cells[0].runs[0].spec
    return {"method": spec.method, "model": spec.model, "cells": rows}


def estimate_cells(cells: Sequence[Cell]) -> dict[str, Any]:
    """What all runs would take: ``runs``, ``calls``, ``tokens_in``, ``tokens_out``, ``cost``; see `estimate`."""
    found = [estimate(prepared) for cell in cells for prepared in cell.runs]
    sums: dict[str, Any] = {key: sum(one[key] for one in found) for key in ("calls", "tokens_in", "tokens_out")}
    costs = [one["cost"] for one in found]
    return {"runs": len(found), **sums, "cost": None if None in costs else sum(costs)}


def agreement(run: Run, reference: Run) -> dict[str, float | None]:
    """How much two results over the same candidates agree, as means over queries; 1 is the same order.

    Returns:
        ``tau``: Kendall's over whole lists, of queries with two documents or more. ``overlap``: the share of the best
        ten that both have, of queries with more than ten. None where no query has enough documents.
    """
    pairs = [(run[query].doc_ids, reference[query].doc_ids) for query in reference]
    taus = [kendall_tau(a, b) for a, b in pairs if len(a) > 1]
    overlaps = [len({*a[:TOP]} & {*b[:TOP]}) / TOP for a, b in pairs if len(a) > TOP]
    return {"tau": _mean(taus), "overlap": _mean(overlaps)}


def kendall_tau(a: Sequence[str], b: Sequence[str]) -> float:
    """Kendall's tau of two orders of the same things, two or more: 1 the same, -1 the reverse."""
    place = {thing: at for at, thing in enumerate(a)}
    seen: list[int] = []
    discordant = 0
    for thing in b:
        at = bisect(seen, place[thing])
        discordant += len(seen) - at
        seen.insert(at, place[thing])
    return 1 - 4 * discordant / (len(b) * (len(b) - 1))


def _cell(cell: Cell, execution: Execution, run: Runner) -> dict[str, Any]:
    rows: list[dict[str, Any]] = []
    reference: Run | None = None
    first_stage_scores: dict[str, float] = {}
    for prepared in cell.runs:
        name = default_folder(prepared.spec, identity_hash(prepared.identity())).name
        summary = run(prepared, execution.model_copy(update={"out": (execution.out or Path("runs")) / name}))
        result = RunFolder(summary["folder"]).read_run("run.trec")
        reference = result if reference is None else reference
        first_stage_scores = summary["first_stage_scores"]
        kept = {key: summary[key] for key in _KEPT}
        rows.append({"order": order_name(prepared.spec), **agreement(result, reference), **kept})
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


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
