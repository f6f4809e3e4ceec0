"""`robustness`: measure how the order of the candidates, or text addressed to the reranker, affects a method."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import typer

from rerank.cli.option_groups import expand_option_groups
from rerank.cli.output import FormatOption, emit_output, format_number_cell, print_note, print_table
from rerank.cli.run import DryRun, execute_with_progress_bar
from rerank.cli.spec_options import with_spec_command_options
from rerank.errors import UsageError
from rerank.experiment.spec import Execution, RunSpec

if TYPE_CHECKING:
    from rerank.experiment import PreparedRun


@dataclass(frozen=True, slots=True, kw_only=True)
class _ProbeOptions:
    probe: Annotated[
        Literal["order", "injection"],
        typer.Option(help="Vary the order of the candidates, or inject text into the passage ranked last."),
    ] = "order"
    also_depth: Annotated[list[int] | None, typer.Option(min=1, help="Additional depth; repeatable.")] = None
    also_first_stage: Annotated[list[str] | None, typer.Option(help="Additional first stage; repeatable.")] = None
    shuffles: Annotated[
        int | None, typer.Option(min=0, help="Number of random orders (3 if omitted); the first uses --seed.")
    ] = None


def register_cli_commands(app: typer.Typer) -> None:
    """Add the command ``robustness``."""
    app.command("robustness", epilog=_EXAMPLE)(robustness_command)


_EXAMPLE = (
    "Example: rerank robustness --collection pydoc --method sliding --model smollm2-135m --depth 30 --max-queries 5 "
    "--shuffles 2"
)


@expand_option_groups
@with_spec_command_options()
def robustness_command(
    spec: RunSpec, execution: Execution, *, options: _ProbeOptions, dry_run: DryRun = False, form: FormatOption = "text"
) -> None:
    """Run a method on varied candidates and compare the results.

    --probe order uses first-stage, reversed and random order. --probe injection adds instructions, the query and
    forged identifiers to the passage that is ranked last. Each run has its own folder in --out or runs/; --resume
    continues unfinished runs.
    """
    from rerank.experiment import check_failure_rate
    from rerank.experiment.robustness import prepare_robustness_cells

    if options.probe != "order" and options.shuffles is not None:
        raise UsageError(
            f"--shuffles is given with --probe {options.probe}", expected="--shuffles only with --probe order"
        )
    probe = _open_probe(options.probe)
    prepared_cells = prepare_robustness_cells(
        spec,
        execution,
        depths=options.also_depth or (),
        first_stages=options.also_first_stage or (),
        shuffles=3 if options.shuffles is None else options.shuffles,
    )
    cells = list(prepared_cells)  # all runs are prepared before the first call, to find errors early
    if dry_run:
        expected = probe.estimate(cells)
        values = ["unknown" if value is None else value for value in expected.values()]
        emit_output(expected, form=form, text=lambda: print_table(list(expected), [values]))
        return
    summaries = []

    def run(prepared: PreparedRun, options: Execution) -> dict[str, Any]:
        spec = prepared.spec
        print_note(f"{spec.first_stage}, depth {spec.depth}, {probe.variant(prepared)}: {options.out}")
        summaries.append(execute_with_progress_bar(prepared, options))
        return summaries[-1]

    report = probe.measure(cells, execution, run=run)
    emit_output(report, form=form, text=lambda: probe.show(report), rows="cells")
    for summary in summaries:
        check_failure_rate(summary, spec.max_failure_rate)


class _Probe(NamedTuple):
    """A kind of robustness test: functions to estimate its cost, measure the effect, name a run, and print results."""

    estimate: Callable[..., dict[str, Any]]
    measure: Callable[..., dict[str, Any]]
    variant: Callable[[PreparedRun], str]
    show: Callable[[dict[str, Any]], None]


def _open_probe(name: str) -> _Probe:
    from rerank.experiment import injection, robustness

    if name == "injection":
        measures = injection.estimate_injection_cells, injection.measure_injection_robustness
        return _Probe(*measures, lambda prepared: prepared.lists.name, _print_injections)
    measures = robustness.estimate_robustness_cells, robustness.measure_order_robustness
    return _Probe(*measures, lambda prepared: robustness.candidate_order_name(prepared.spec), _print_orders)


def _print_orders(report: dict[str, Any]) -> None:
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


def _print_injections(report: dict[str, Any]) -> None:
    rows = [
        [
            *(cell["first_stage"], cell["depth"], row["attack"], row["position"]),
            *(format_number_cell(cell["rank_before"], 1), format_number_cell(row["rank"], 1)),
            *(_format_interval(row[key]) for key in ("rise", "first", "top_10")),
        ]
        for cell in report["cells"]
        for row in cell["attacks"]
    ]
    heads = ["first stage", "depth", "attack", "position", "rank before", "rank", "rise", "rank 1", "top 10"]
    print_table(heads, rows)
    print_note("rise, rank 1, top 10: mean over queries of rank before minus rank, and fractions, with 95 % intervals")


def _format_interval(value: dict[str, float | None] | None) -> str:
    if value is None:
        return "-"
    mean, low, high = (format_number_cell(value[key], 2) for key in ("mean", "low", "high"))
    return f"{mean} [{low}, {high}]"
