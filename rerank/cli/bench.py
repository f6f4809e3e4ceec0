"""`bench`: the runs of a suite, made where they are missing, and compared within their candidates."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rerank.cli.groups import unfolded
from rerank.cli.output import FormatOption, emit, note, number, table
from rerank.errors import PartialFailureError

if TYPE_CHECKING:
    from rerank.experiment import Prepared
    from rerank.experiment.spec import Execution
    from rerank.leaderboard.suites.bench import Made, Planned
    from rerank.leaderboard.suites.suite import Suite

SuiteFile = Annotated[Path, typer.Argument(metavar="SUITE", help="The suite, a TOML file.", show_default=False)]
Out = Annotated[Path | None, typer.Option("--out", "-o", help="Folder of the runs. (default: runs/NAME of the suite)")]
Data = Annotated[Path | None, typer.Option(help="What stands for {data} in the suite: where its files lie.")]
Models = Annotated[
    list[str] | None, typer.Option("--model", help="Instead of the suite's models, adapters and rerankers; repeatable.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what is there and what the rest takes; ask no model.")]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("bench", epilog="Example: rerank bench suite.toml --out runs/mine --dry-run")(bench)


@dataclass(frozen=True, kw_only=True)
class How:
    """How the machine goes about it, for all runs."""

    device: Annotated[str, typer.Option(help="Torch device.")] = "auto"
    device_map: Annotated[
        str, typer.Option(help="Spread a model over devices: auto, balanced, sequential or tp.", show_default=False)
    ] = ""
    batch_size: Annotated[int | None, typer.Option(help="Prompts a batch; the backend's own if left out.")] = None
    concurrency: Annotated[int | None, typer.Option(help="Requests to a server under way at a time.")] = None
    timeout: Annotated[float | None, typer.Option(help="Seconds to wait for a server's answer.")] = None

    def execution(self) -> Execution:
        """The same, checked."""
        from rerank.experiment.spec import Execution

        return Execution.make({key: value for key, value in vars(self).items() if value is not None})


@unfolded
def bench(
    suite: SuiteFile,
    how: How,
    *,
    out: Out = None,
    data: Data = None,
    model: Models = None,
    dry_run: DryRun = False,
    form: FormatOption = "text",
) -> None:
    """Make the runs of a suite that are missing, go on with unfinished ones, and compare what reranked the same lists.

    Run again, it makes nothing twice. A run that fails leaves the others alone; exit code 7 says that there was one.
    """
    from rerank.leaderboard.suites.bench import plan, totals
    from rerank.leaderboard.suites.suite import read_suite

    read = read_suite(suite, data=data)
    read = read.with_models(model) if model else read
    folder, execution = out or Path("runs") / read.name, how.execution()
    planned = plan(read, folder, execution)
    expected = totals(planned)
    if dry_run:
        content = {"suite": read.name, "out": str(folder), "total": expected, "runs": [p.to_dict() for p in planned]}
        emit(content, form=form, text=lambda: _show_plan(read, planned, expected), rows="runs")
        if expected["problems"]:
            first = next(one.problem for one in planned if one.problem)
            raise PartialFailureError(f"{expected['problems']} of {len(planned)} runs cannot be made: {first}")
        return
    note(_say_plan(read, expected))
    _make(read, planned, folder, execution, form)


def _make(suite: Suite, planned: Sequence[Planned], folder: Path, execution: Execution, form: Any) -> None:
    from rerank.leaderboard.suites.bench import Made, make
    from rerank.leaderboard.suites.results import compare_groups, row, write_results

    made: list[Made] = []
    runs = make(planned, folder, execution, run=_Speaking(len(planned), sum(p.kept is not None for p in planned)))
    for one in runs:
        made.append(one)
        ahead = [Made(planned=p, summary=dict(p.kept.summary or {})) for p in planned[len(made) :] if p.kept]
        write_results(folder, [row(suite, each) for each in (*made, *ahead)])  # now: a stop later loses nothing
        if one.problem:
            note(f"failed: {one.planned.run}: {one.problem}")
    groups = compare_groups(suite, made)
    failures = [{"run": str(one.planned.run), "problem": one.problem} for one in made if one.problem]
    shown = [{**group, "comparison": c.to_dict() if (c := group["comparison"]) else None} for group in groups]
    content = {"suite": suite.name, "out": str(folder), "runs": [row(suite, one) for one in made], "groups": shown}
    emit(content | {"failures": failures}, form=form, text=lambda: _show(suite, groups, made), rows="runs")
    if failures:
        listed = "; ".join(f"{failure['run']}: {failure['problem']}" for failure in failures)
        raise PartialFailureError(
            f"{len(failures)} of {len(made)} runs failed. {listed}",
            remedy=f"The others are in {str(folder)!r}; the same command tries only the failed ones again",
        )


class _Speaking:
    """Executes runs with a bar for each, and says which of all it is at."""

    def __init__(self, total: int, done: int) -> None:
        self._total, self._at = total, done

    def __call__(self, prepared: Prepared, execution: Execution) -> dict[str, Any]:
        from rerank.cli.run import progress
        from rerank.experiment import execute

        self._at += 1
        spec = prepared.spec
        note(f"{self._at} of {self._total}: {spec.collection}, {spec.first_stage}, depth {spec.depth}: {execution.out}")
        try:
            with progress(prepared.method.name, prepared.calls()) as on_reply:
                return execute(prepared, execution, on_reply=on_reply)
        except KeyboardInterrupt:
            note("Stopped. Committed calls are kept; the same command goes on.")
            sys.exit(130)


def _say_plan(suite: Suite, expected: dict[str, Any]) -> str:
    found = f"{suite.name}: {expected['runs']} runs, {expected['done']} done, {expected['missing']} missing"
    if expected["problems"]:
        found += f", {expected['problems']} of them with a problem and not counted"
    if expected["missing"] == expected["problems"]:
        return found
    seconds = expected["seconds"]
    unknown = "time unknown: no finished run of the same model in the folder"
    takes = f"{seconds:.0f} s of the model" if seconds is not None else unknown
    return f"{found}; at most {expected['calls']} calls, {expected['tokens']} tokens, {takes}"


def _show_plan(suite: Suite, planned: Sequence[Planned], expected: dict[str, Any]) -> None:
    headers = ["run", "status", "calls", "committed", "tokens", "seconds"]
    rows = [(one, one.to_dict()) for one in planned]
    table(
        headers,
        [
            [one.run, row["status"], _dash(row["calls"]), row["committed"], _dash(row["tokens"]), _seconds(row)]
            for one, row in rows
        ],
    )
    for one, row in rows:
        if row["problem"]:
            note(f"{one.run}: {row['problem']}")
    note(_say_plan(suite, expected))


def _show(suite: Suite, groups: Sequence[dict[str, Any]], made: Sequence[Made]) -> None:
    for group in groups:
        typer.echo(f"\n{group['collection']}, {group['first_stage']}, depth {group['depth']}\n")
        if group["comparison"]:
            typer.echo(group["comparison"])
        _show_means(group)
        _show_spread(group)
        _show_rivals(group)
        for said in group["notes"]:
            note(said)
    if len(groups) > 1:
        note("Runs are compared within a group: others put other candidates in order.")
    rows = [
        [one.planned.run, *(one.summary[key] for key in ("calls", "tokens_in", "tokens_out")), _seconds(one.summary)]
        for one in made
        if one.summary
    ]
    typer.echo("")
    table(["run", "calls", "tokens in", "tokens out", "model seconds"], rows)


def _show_means(group: dict[str, Any]) -> None:
    measures = list(group["systems"][0]["scores"]) if group["systems"] else []
    if len(measures) > 1:
        rows = [[one["system"], *(number(one["scores"][m]) for m in measures)] for one in group["systems"]]
        table(["means", *measures], rows)


def _show_spread(group: dict[str, Any]) -> None:
    several = [one for one in group["systems"] if one["seeds"] > 1]
    if several:
        rows = [
            [one["system"], one["seeds"], *(number(one["spread"][key]) for key in ("sd", "lowest", "highest"))]
            for one in several
        ]
        table(["over seeds", "seeds", "sd", "lowest", "highest"], rows)


def _show_rivals(group: dict[str, Any]) -> None:
    if not group["rivals"]:
        return
    measures = list(group["rivals"][0]["scores"])
    rows = [
        [one["rival"], *(number(one["scores"][m]) for m in measures), one["candidates"], number(one["in_common"], 2)]
        for one in group["rivals"]
    ]
    table(["rival", *measures, "candidates", "in common"], rows)
    note("Rivals are measured on the same judgments and not tested: all but those marked same had other candidates.")


def _dash(value: object) -> object:
    return "unknown" if value is None else value


def _seconds(row: dict[str, Any]) -> str:
    return "unknown" if row["seconds"] is None else f"{row['seconds']:.1f}"
