"""`robustness`: how much a method cares about the order in which it gets its candidates."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from rerank.cli.output import FormatOption, emit, note, number, table
from rerank.cli.run import execute_with_progress
from rerank.cli.specs import with_spec
from rerank.experiment.spec import Execution, RunSpec

if TYPE_CHECKING:
    from rerank.experiment import Prepared

Depths = Annotated[list[int] | None, typer.Option("--also-depth", min=1, help="A further depth; repeatable.")]
FirstStages = Annotated[list[str] | None, typer.Option("--also-first-stage", help="A further first stage; repeatable.")]
Shuffles = Annotated[int, typer.Option(min=0, help="Random orders, the first of them from --seed.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Count calls, tokens and money; ask the model nothing.")]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("robustness", epilog=_EXAMPLE)(robustness)


_EXAMPLE = (
    "Example: rerank robustness --collection pydoc --method sliding --model smollm2-135m --depth 30 --max-queries 5 "
    "--shuffles 2"
)


@with_spec()
def robustness(
    spec: RunSpec,
    execution: Execution,
    *,
    also_depth: Depths = None,
    also_first_stage: FirstStages = None,
    shuffles: Shuffles = 3,
    dry_run: DryRun = False,
    form: FormatOption = "text",
) -> None:
    """Run a method on its candidates in the given order, reversed and shuffled, and compare what comes out.

    Every run has its own folder, in --out or runs/; --resume goes on where it stopped.
    """
    from rerank.experiment import check_failures
    from rerank.experiment.robustness import estimate_cells, order_name, prepare_cells
    from rerank.experiment.robustness import robustness as compare_orders

    made = prepare_cells(
        spec, execution, depths=also_depth or (), first_stages=also_first_stage or (), shuffles=shuffles
    )
    cells = list(made)  # all of them before the first call, so that nothing is wrong with the last one
    if dry_run:
        expected = estimate_cells(cells)
        values = ["unknown" if value is None else value for value in expected.values()]
        emit(expected, form=form, text=lambda: table(list(expected), [values]))
        return
    summaries = []

    def run(prepared: Prepared, how: Execution) -> dict[str, Any]:
        note(f"{prepared.spec.first_stage}, depth {prepared.spec.depth}, {order_name(prepared.spec)}: {how.out}")
        summaries.append(execute_with_progress(prepared, how))
        return summaries[-1]

    report = compare_orders(cells, execution, run=run)
    emit(report, form=form, text=lambda: _show(report), rows="cells")
    for summary in summaries:
        check_failures(summary, spec.max_failure_rate)


def _show(report: dict[str, Any]) -> None:
    measures = list(report["cells"][0]["first_stage_scores"])
    rows: list[list[object]] = []
    for cell in report["cells"]:
        where = [cell["first_stage"], cell["depth"]]
        if measures:
            rows.append([*where, "first stage", *map(number, cell["first_stage_scores"].values()), "", ""])
        for row in cell["orders"]:
            agreement = [number(row["tau"]), number(row["overlap"])]
            rows.append([*where, row["order"], *(number(row["scores"][m]) for m in measures), *agreement])
        if measures:
            rows.append([*where, "best - worst", *map(number, cell["spread"].values()), "", ""])
    table(["first stage", "depth", "order", *measures, "tau", "top 10"], rows)
    note("tau, top 10: agreement with the result of the given order, Kendall's tau and the share of the best ten")
