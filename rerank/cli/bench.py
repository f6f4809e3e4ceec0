"""`bench`: execute the missing runs of a suite, and compare runs with the same candidates."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rerank.cli.model_options import EngineOptions
from rerank.cli.option_groups import expand_option_groups
from rerank.cli.output import (
    FormatOption,
    WideOption,
    emit_output,
    format_number_cell,
    print_note,
    print_reports,
    print_table,
)
from rerank.errors import PartialFailureError

if TYPE_CHECKING:
    from rerank.experiment import PreparedRun
    from rerank.experiment.spec import Execution
    from rerank.leaderboard.suites.bench import PlannedRun, SuiteResult
    from rerank.leaderboard.suites.suite import Suite

SuiteFile = Annotated[Path, typer.Argument(metavar="SUITE", help="TOML file of the suite.", show_default=False)]
Out = Annotated[
    Path | None, typer.Option("--out", "-o", help="Folder of the runs. (default: runs/ and the suite's name)")
]
Data = Annotated[Path | None, typer.Option(help="Folder that replaces {data} in the suite.")]
Models = Annotated[
    list[str] | None,
    typer.Option("--model", help="Model that replaces the suite's models, adapters and rerankers; repeatable."),
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Report which runs are finished, and estimate the cost of the missing runs.")
]


def register_cli_commands(app: typer.Typer) -> None:
    """Add the command ``bench``."""
    app.command("bench", epilog="Example: rerank bench suite.toml --out runs/mine --dry-run")(bench_command)


@dataclass(frozen=True, kw_only=True)
class BenchOptions(EngineOptions):
    """Options for the execution of the suite's runs, and for permission to run code that comes with its models."""

    device: Annotated[str, typer.Option(help="Torch device.")] = "auto"
    device_map: Annotated[
        str, typer.Option(help="Distribute models over devices: auto, balanced, sequential or tp.", show_default=False)
    ] = ""
    batch_size: Annotated[
        int | None, typer.Option(help="Number of prompts per batch; if omitted, the backend decides.")
    ] = None
    concurrency: Annotated[int | None, typer.Option(help="Number of simultaneous requests to a server.")] = None
    timeout: Annotated[float | None, typer.Option(help="Seconds to wait for a reply from a server.")] = None
    retries: Annotated[int | None, typer.Option(help="Number of retries if a server does not reply.")] = None
    trust_remote_code: Annotated[
        bool,
        typer.Option("--trust-remote-code", help="Permit the suite to run Python code that comes with its models."),
    ] = False


@dataclass(frozen=True, kw_only=True)
class BenchOutputOptions:
    """Options for the output of the suite's results."""

    wide: WideOption = False
    form: FormatOption = "text"


@expand_option_groups
def bench_command(
    suite: SuiteFile,
    options: BenchOptions,
    output: BenchOutputOptions,
    *,
    out: Out = None,
    data: Data = None,
    model: Models = None,
    dry_run: DryRun = False,
) -> None:
    """Execute the missing runs of a suite, resume unfinished runs, and compare runs with the same candidates.

    Finished runs are not repeated. If a run fails, the other runs are still executed, and the exit code is 7.
    """
    from rerank.leaderboard.suites.bench import plan_suite_runs, sum_suite_costs
    from rerank.leaderboard.suites.suite import read_suite

    opened = read_suite(suite, data=data, trust_remote_code=options.trust_remote_code)
    opened = opened.with_models(model) if model else opened
    folder, execution = out or Path("runs") / opened.name, options.execution()
    planned = plan_suite_runs(opened, folder, execution)
    expected = sum_suite_costs(planned)
    if dry_run:
        content = {"suite": opened.name, "out": str(folder), "total": expected, "runs": [p.to_dict() for p in planned]}
        emit_output(content, form=output.form, text=lambda: _print_bench_plan(opened, planned, expected), rows="runs")
        if expected["problems"]:
            first = next(planned_run.problem for planned_run in planned if planned_run.problem)
            raise PartialFailureError(
                f"{expected['problems']} of {len(planned)} runs cannot be executed. First problem: {first}"
            )
        return
    print_note(_format_bench_plan(opened, expected))
    _execute_bench(opened, planned, folder, execution, output)


def _execute_bench(
    suite: Suite, planned: Sequence[PlannedRun], folder: Path, execution: Execution, output: BenchOutputOptions
) -> None:
    from rerank.leaderboard.suites.bench import SuiteResult, execute_suite_runs
    from rerank.leaderboard.suites.results import compare_suite_groups, suite_result_row, write_suite_results

    results: list[SuiteResult] = []
    runs = execute_suite_runs(
        planned, folder, execution, run=_ProgressRunner(len(planned), sum(p.stored is not None for p in planned))
    )
    for result in runs:
        results.append(result)
        later = [
            SuiteResult(planned=p, summary=dict(p.stored.summary or {})) for p in planned[len(results) :] if p.stored
        ]
        # written after each run, because an interruption must not lose results
        write_suite_results(folder, [suite_result_row(suite, each) for each in (*results, *later)])
        if result.problem:
            print_note(f"failed: {result.planned.run}: {result.problem}")
    groups = compare_suite_groups(suite, results)
    failures = [{"run": str(result.planned.run), "problem": result.problem} for result in results if result.problem]
    shown = [{**group, "comparison": c.to_dict() if (c := group["comparison"]) else None} for group in groups]
    content = {
        "suite": suite.name,
        "out": str(folder),
        "runs": [suite_result_row(suite, result) for result in results],
        "groups": shown,
    }
    emit_output(
        content | {"failures": failures},
        form=output.form,
        text=lambda: _print_bench_results(suite, groups, results, wide=output.wide),
        rows="runs",
    )
    if failures:
        listed = "; ".join(f"{failure['run']}: {failure['problem']}" for failure in failures)
        raise PartialFailureError(
            f"{len(failures)} of {len(results)} runs failed. {listed}",
            remedy=f"The other runs are saved in {str(folder)!r}; the same command repeats only the failed runs",
        )


class _ProgressRunner:
    """Callable that executes a run, after printing its number, with a progress bar."""

    def __init__(self, total: int, done: int) -> None:
        self._total, self._current = total, done

    def __call__(self, prepared: PreparedRun, execution: Execution) -> dict[str, Any]:
        from rerank.experiment import execute_run, show_run_progress

        self._current += 1
        spec = prepared.spec
        print_note(
            f"{self._current} of {self._total}: {spec.collection}, {spec.first_stage}, depth {spec.depth}: "
            f"{execution.out}"
        )
        try:
            with show_run_progress(prepared) as on_reply:
                return execute_run(prepared, execution, on_reply=on_reply)
        except KeyboardInterrupt:
            print_note("Stopped. Committed calls are kept; the same command continues.")
            sys.exit(130)


def _format_bench_plan(suite: Suite, expected: dict[str, Any]) -> str:
    text = f"{suite.name}: {expected['runs']} runs, {expected['done']} done, {expected['missing']} missing"
    if expected["problems"]:
        text += f", {expected['problems']} of them cannot be executed and are not counted"
    if expected["missing"] == expected["problems"]:
        return text
    seconds = expected["seconds"]
    unknown = "time unknown: the folder contains no finished run of the same model"
    duration = f"{seconds:.0f} s of model time" if seconds is not None else unknown
    return f"{text}; at most {expected['calls']} calls, {expected['tokens']} tokens, {duration}"


def _print_bench_plan(suite: Suite, planned: Sequence[PlannedRun], expected: dict[str, Any]) -> None:
    headers = ["run", "status", "calls", "committed", "tokens", "seconds"]
    rows = [(run, run.to_dict()) for run in planned]
    print_table(
        headers,
        [
            [
                run.run,
                row["status"],
                _printed_bench_value_or_unknown(row["calls"]),
                row["committed"],
                _printed_bench_value_or_unknown(row["tokens"]),
                _format_bench_seconds(row),
            ]
            for run, row in rows
        ],
    )
    for run, row in rows:
        if row["problem"]:
            print_note(f"{run.run}: {row['problem']}")
    print_note(_format_bench_plan(suite, expected))


def _print_bench_results(
    suite: Suite, groups: Sequence[dict[str, Any]], results: Sequence[SuiteResult], *, wide: bool
) -> None:
    if not sys.stdout.isatty():
        _print_bench_pairs(groups)
    for group in groups:
        print_note(f"\n{group['collection']}, {group['first_stage']}, depth {group['depth']}\n")
        if group["comparison"] and sys.stdout.isatty():
            print_reports([group["comparison"].tables()], wide=wide)
        _print_bench_means(group)
        _print_bench_spread(group)
        _print_bench_rivals(group)
        for message in group["notes"]:
            print_note(message)
    if len(groups) > 1:
        print_note("Only runs in the same group are compared, because each group has its own candidates.")
    rows = [
        [
            result.planned.run,
            *(result.summary[key] for key in ("calls", "tokens_in", "tokens_out")),
            _format_bench_seconds(result.summary),
        ]
        for result in results
        if result.summary
    ]
    print_table(["run", "calls", "tokens in", "tokens out", "model seconds"], rows, further=True)


def _print_bench_pairs(groups: Sequence[dict[str, Any]]) -> None:
    """Print the comparisons of all pairs of runs as one table instead of one per group, for a pipe or file."""
    from rerank.io.reports import cell_text

    places = ("collection", "first_stage", "depth")
    tables = [(group, group["comparison"].tables().main) for group in groups if group["comparison"]]
    rows = [[*(group[name] for name in places), *map(cell_text, row)] for group, grid in tables for row in grid.rows]
    print_table([*places, *(tables[0][1].heads if tables else [])], rows)


def _print_bench_means(group: dict[str, Any]) -> None:
    measures = list(group["systems"][0]["scores"]) if group["systems"] else []
    if len(measures) > 1:
        rows = [[row["system"], *(format_number_cell(row["scores"][m]) for m in measures)] for row in group["systems"]]
        print_table(["means", *measures], rows, further=True)


def _print_bench_spread(group: dict[str, Any]) -> None:
    systems = [system for system in group["systems"] if system["seeds"] > 1]
    if systems:
        rows = [
            [
                row["system"],
                row["seeds"],
                *(format_number_cell(row["spread"][key]) for key in ("sd", "lowest", "highest")),
            ]
            for row in systems
        ]
        print_table(["over seeds", "seeds", "sd", "lowest", "highest"], rows, further=True)


def _print_bench_rivals(group: dict[str, Any]) -> None:
    if not group["rivals"]:
        return
    measures = list(group["rivals"][0]["scores"])
    rows = [
        [
            row["rival"],
            *(format_number_cell(row["scores"][m]) for m in measures),
            row["candidates"],
            format_number_cell(row["in_common"], 2),
        ]
        for row in group["rivals"]
    ]
    print_table(["rival", *measures, "candidates", "in common"], rows, further=True)
    print_note(
        "Rivals are scored with the same qrels, but not tested. Their candidates differ unless they are marked same."
    )


def _printed_bench_value_or_unknown(value: object) -> object:
    return "unknown" if value is None else value


def _format_bench_seconds(row: dict[str, Any]) -> str:
    return "unknown" if row["seconds"] is None else f"{row['seconds']:.1f}"
