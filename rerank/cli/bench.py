"""`bench`: execute the missing runs of a suite, and compare runs with the same candidates."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Option

from rerank.cli.app import command
from rerank.cli.options import EngineOptions, FormatOption, OptionGroup, TorchDevice, WideOption
from rerank.cli.output import emit_content, print_note
from rerank.cli.run import execute_with_progress_bar
from rerank.errors import PartialFailureError
from rerank.experiment import PreparedRun
from rerank.experiment.spec import Execution
from rerank.io.reports import Grid, TableReport, cell_text, format_cell, make_grid
from rerank.io.text_files import check_file_writable

if TYPE_CHECKING:
    from rerank.leaderboard.suites.bench import PlannedRun, SuiteResult
    from rerank.leaderboard.suites.suite import Suite


class BenchOptions(EngineOptions):
    """Options for the execution of the suite's runs, and for permission to run code that comes with its models."""

    device: TorchDevice = "auto"
    device_map: Annotated[
        str, Option(help="Distribute models over devices: auto, balanced, sequential or tp.", show_default=False)
    ] = ""
    batch_size: Annotated[int | None, "Number of prompts per batch; if omitted, the backend decides."] = None
    concurrency: Annotated[int | None, "Number of simultaneous requests to a server."] = None
    timeout: Annotated[float | None, "Seconds to wait for a reply from a server."] = None
    retries: Annotated[int | None, "Number of retries if a server does not reply."] = None
    trust_remote_code: Annotated[bool, "Permit the suite to run Python code that comes with its models."] = False


class BenchOutputOptions(OptionGroup):
    """Options for the output of the suite's results."""

    wide: WideOption = False
    form: FormatOption = "text"


@command("bench", "rerank bench suite.toml --out runs/mine --dry-run")
def bench(
    suite: Annotated[Path, Argument(metavar="SUITE", help="TOML file of the suite.", show_default=False)],
    options: BenchOptions,
    output: BenchOutputOptions,
    *,
    out: Annotated[
        Path | None, Option("--out", "-o", help="Folder of the runs. (default: runs/ and the suite's name)")
    ] = None,
    data: Annotated[Path | None, "Folder that replaces {data} in the suite."] = None,
    model: Annotated[
        list[str] | None, "Model that replaces the suite's models, adapters and rerankers; repeatable."
    ] = None,
    dry_run: Annotated[bool, "Report which runs are finished, and estimate the cost of the missing runs."] = False,
) -> None:
    """Execute the missing runs of a suite, resume unfinished runs, and compare runs with the same candidates.

    Finished runs are not repeated. If a run fails, the other runs are still executed, and the exit code is 7.
    """
    from rerank.leaderboard.suites.bench import SuiteResult, execute_runs, plan_runs, sum_costs
    from rerank.leaderboard.suites.results import compare_groups, run_row, write_rows
    from rerank.leaderboard.suites.suite import read_suite

    opened = read_suite(suite, data=data, trust_remote_code=options.trust_remote_code)
    opened = opened.with_models(model) if model else opened
    folder, execution = out or Path("runs") / opened.name, options.execution()
    planned = plan_runs(opened, folder, execution)
    expected = sum_costs(planned)
    about: dict[str, Any] = {"suite": opened.name, "out": str(folder)}
    if dry_run:
        content = {**about, "total": expected, "runs": [run.to_dict() for run in planned]}
        emit_content(content, _plan_parts(opened, planned, expected), output.form, key="runs")
        if expected["problems"]:
            first = next(run.problem for run in planned if run.problem)
            raise PartialFailureError(
                f"{expected['problems']} of {len(planned)} runs cannot be executed. First problem: {first}"
            )
        return
    for name in ("results.jsonl", "results.csv") if folder.is_dir() else ():
        check_file_writable(folder / name, "table of a suite")
    print_note(_format_plan(opened, expected))
    results: list[SuiteResult] = []
    current = sum(run.stored is not None for run in planned)

    def run_one(prepared: PreparedRun, execution: Execution) -> dict[str, Any]:
        nonlocal current
        current += 1
        spec = prepared.spec
        where = f"{spec.collection}, {spec.first_stage}, depth {spec.depth}"
        print_note(f"{current} of {len(planned)}: {where}: {execution.out}")
        return execute_with_progress_bar(prepared, execution, again="the same command continues")

    for result in execute_runs(planned, folder, execution, run=run_one):
        results.append(result)
        later = [
            SuiteResult(planned=p, summary=dict(p.stored.summary or {})) for p in planned[len(results) :] if p.stored
        ]
        # written after each run, because an interruption must not lose results
        write_rows(folder, [run_row(opened, each) for each in (*results, *later)])
        if result.problem:
            print_note(f"failed: {result.planned.run}: {result.problem}")
    groups = compare_groups(opened, results)
    failures = [{"run": str(result.planned.run), "problem": result.problem} for result in results if result.problem]
    content = {
        **about,
        "runs": [run_row(opened, result) for result in results],
        "groups": [{**group, "comparison": c.to_dict() if (c := group["comparison"]) else None} for group in groups],
        "failures": failures,
    }
    emit_content(content, _result_parts(groups, results), output.form, wide=output.wide, key="runs")
    if failures:
        listed = "; ".join(f"{failure['run']}: {failure['problem']}" for failure in failures)
        raise PartialFailureError(
            f"{len(failures)} of {len(results)} runs failed. {listed}",
            remedy=f"The other runs are saved in {str(folder)!r}; the same command repeats only the failed runs",
        )


def _format_plan(suite: Suite, expected: Mapping[str, Any]) -> str:
    text = f"{suite.name}: {expected['runs']} runs, {expected['done']} done, {expected['missing']} missing"
    if expected["problems"]:
        text += f", {expected['problems']} of them cannot be executed and are not counted"
    if expected["missing"] == expected["problems"]:
        return text
    seconds = expected["seconds"]
    unknown = "time unknown: the folder contains no finished run of the same model"
    duration = f"{seconds:.0f} s of model time" if seconds is not None else unknown
    return f"{text}; at most {expected['calls']} calls, {expected['tokens']} tokens, {duration}"


def _plan_parts(suite: Suite, planned: Sequence[PlannedRun], expected: Mapping[str, Any]) -> Iterator[Grid | str]:
    keys = ("status", "calls", "committed", "tokens")
    rows = [(run.run, run.to_dict()) for run in planned]
    cells = [[run, *("unknown" if row[k] is None else row[k] for k in keys), _format_seconds(row)] for run, row in rows]
    yield make_grid(["run", *keys, "seconds"], cells)
    yield from (f"{run}: {row['problem']}" for run, row in rows if row["problem"])
    yield _format_plan(suite, expected)


def _result_parts(
    groups: Sequence[dict[str, Any]], results: Sequence[SuiteResult]
) -> Iterator[Grid | TableReport | str]:
    if not sys.stdout.isatty():  # one table of all pairs instead of one per group, for a pipe or file
        places = ("collection", "first_stage", "depth")
        mains = [(group, group["comparison"].tables().main) for group in groups if group["comparison"]]
        rows = [[*(group[name] for name in places), *map(cell_text, row)] for group, grid in mains for row in grid.rows]
        yield make_grid([*places, *(mains[0][1].heads if mains else [])], rows)
    for group in groups:
        yield f"\n{group['collection']}, {group['first_stage']}, depth {group['depth']}\n"
        if group["comparison"] and sys.stdout.isatty():
            yield group["comparison"].tables()
        measures = list(group["systems"][0]["scores"]) if group["systems"] else []
        if len(measures) > 1:
            rows = [[row["system"], *(row["scores"][m] for m in measures)] for row in group["systems"]]
            yield make_grid(["means", *measures], rows, further=True)
        spread = ("sd", "lowest", "highest")
        if repeated := [row for row in group["systems"] if row["seeds"] > 1]:
            rows = [[row["system"], row["seeds"], *(row["spread"][key] for key in spread)] for row in repeated]
            yield make_grid(["over seeds", "seeds", *spread], rows, further=True)
        if group["rivals"]:
            measures = list(group["rivals"][0]["scores"])
            rows = []
            for row in group["rivals"]:
                means = [row["scores"][m] for m in measures]
                rows.append([row["rival"], *means, row["candidates"], format_cell(row["in_common"], 2)])
            yield make_grid(["rival", *measures, "candidates", "in common"], rows, further=True)
            yield (
                "Rivals are scored with the same qrels, but not tested. Their candidates differ unless they are marked "
                "same."
            )
        yield from group["notes"]
    if len(groups) > 1:
        yield "Only runs in the same group are compared, because each group has its own candidates."
    keys = ("calls", "tokens_in", "tokens_out")
    costs = [(result.planned.run, summary) for result in results if (summary := result.summary)]
    rows = [[run, *(summary[key] for key in keys), _format_seconds(summary)] for run, summary in costs]
    yield make_grid(["run", "calls", "tokens in", "tokens out", "model seconds"], rows, further=True)


def _format_seconds(row: Mapping[str, Any]) -> str:
    return "unknown" if row["seconds"] is None else f"{row['seconds']:.1f}"
