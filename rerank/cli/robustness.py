"""`robustness`: measure how the order of the candidates affects a method."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from rerank.cli.output import FormatOption, emit_output, format_number_cell, print_note, print_table
from rerank.cli.run import DryRun, execute_with_progress_bar
from rerank.cli.spec_options import with_spec_command_options
from rerank.experiment.spec import Execution, RunSpec

if TYPE_CHECKING:
    from rerank.experiment import PreparedRun

Depths = Annotated[list[int] | None, typer.Option("--also-depth", min=1, help="Additional depth; repeatable.")]
FirstStages = Annotated[
    list[str] | None, typer.Option("--also-first-stage", help="Additional first stage; repeatable.")
]
Shuffles = Annotated[int, typer.Option(min=0, help="Number of random orders; the first uses --seed.")]


def register_cli_commands(app: typer.Typer) -> None:
    """Add the command."""
    app.command("robustness", epilog=_EXAMPLE)(robustness_command)


_EXAMPLE = (
    "Example: rerank robustness --collection pydoc --method sliding --model smollm2-135m --depth 30 --max-queries 5 "
    "--shuffles 2"
)


@with_spec_command_options()
def robustness_command(
    spec: RunSpec,
    execution: Execution,
    *,
    also_depth: Depths = None,
    also_first_stage: FirstStages = None,
    shuffles: Shuffles = 3,
    dry_run: DryRun = False,
    form: FormatOption = "text",
) -> None:
    """Run a method on candidates in first-stage order, reversed and shuffled, and compare the results.

    Each run has its own folder in --out or runs/; --resume continues unfinished runs.
    """
    from rerank.experiment import check_failure_rate
    from rerank.experiment.robustness import candidate_order_name, estimate_robustness_cells, prepare_robustness_cells
    from rerank.experiment.robustness import measure_order_robustness as compare_orders

    prepared_cells = prepare_robustness_cells(
        spec, execution, depths=also_depth or (), first_stages=also_first_stage or (), shuffles=shuffles
    )
    cells = list(prepared_cells)  # all runs are prepared before the first call, to find errors early
    if dry_run:
        expected = estimate_robustness_cells(cells)
        values = ["unknown" if value is None else value for value in expected.values()]
        emit_output(expected, form=form, text=lambda: print_table(list(expected), [values]))
        return
    summaries = []

    def run(prepared: PreparedRun, options: Execution) -> dict[str, Any]:
        spec = prepared.spec
        print_note(f"{spec.first_stage}, depth {spec.depth}, {candidate_order_name(spec)}: {options.out}")
        summaries.append(execute_with_progress_bar(prepared, options))
        return summaries[-1]

    report = compare_orders(cells, execution, run=run)
    emit_output(report, form=form, text=lambda: _print_robustness(report), rows="cells")
    for summary in summaries:
        check_failure_rate(summary, spec.max_failure_rate)


def _print_robustness(report: dict[str, Any]) -> None:
    measures = list(report["cells"][0]["first_stage_scores"])
    rows: list[list[object]] = []
    for cell in report["cells"]:
        where = [cell["first_stage"], cell["depth"]]
        if measures:
            rows.append([*where, "first stage", *map(format_number_cell, cell["first_stage_scores"].values()), "", ""])
        for row in cell["orders"]:
            agreement = [format_number_cell(row["tau"]), format_number_cell(row["overlap"])]
            rows.append([*where, row["order"], *(format_number_cell(row["scores"][m]) for m in measures), *agreement])
        if measures:
            rows.append([*where, "best - worst", *map(format_number_cell, cell["spread"].values()), "", ""])
    print_table(["first stage", "depth", "order", *measures, "tau", "top 10"], rows)
    print_note("tau, top 10: Kendall's tau, and overlap of the top ten, with the result for the order 'given'")
