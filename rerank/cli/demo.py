"""`demo`: the main job on a collection that every Python brings along."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from rerank.cli.output import FormatOption, counts, emit, note, table
from rerank.cli.run import execute_with_progress


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("demo", epilog="Example: rerank demo")(demo)


def demo(
    everything: Annotated[bool, typer.Option("--all", help="All questions, not the fixed sample.")] = False,
    out: Annotated[Path, typer.Option(help="Where the run folders go.")] = Path("runs/demo"),
    model: Annotated[str, typer.Option(help="The reranker.")] = "smollm2-135m",
    form: FormatOption = "text",
) -> None:
    """Rank Python's own documentation: BM25 against a small language model, as it came and as it was trained."""
    from rerank.cli.data import pull_with_progress
    from rerank.experiment import prepare
    from rerank.experiment.demo import demo_report, demo_specs
    from rerank.experiment.execute import default_folder, run_name
    from rerank.experiment.spec import Execution
    from rerank.models import MODELS
    from rerank.store import identity_hash

    if model in MODELS:
        pull_with_progress(model)
    summaries = []
    for spec in demo_specs(model=model, everything=everything):
        prepared = prepare(spec, Execution())
        note(f"{run_name(prepared.spec)}: {prepared.calls()} calls for {len(prepared.first_stage)} questions, {model}")
        folder = out / default_folder(prepared.spec, identity_hash(prepared.identity())).name
        summaries.append(execute_with_progress(prepared, Execution(out=folder, resume=True)))
    report = demo_report(summaries)
    content = report | {"comparison": report["comparison"].to_dict()}
    emit(content, form=form, text=lambda: _show(report, sample=not everything))


def _show(report: dict[str, Any], *, sample: bool) -> None:
    typer.echo(report["comparison"])
    headers = ["run", "calls", "reused", "tokens in", "tokens out", "model seconds", "windows"]
    keys = ("run", "calls", "reused_calls", "tokens_in", "tokens_out")
    rows = [[*(row[k] for k in keys), f"{row['seconds']:.1f}", counts(row["windows"])] for row in report["costs"]]
    table(headers, rows)
    if sample:
        typer.echo("The sample was chosen by BM25's scores, so that there is room to move: compare methods on it, and")
        typer.echo("do not quote it as a benchmark. `rerank demo --all` takes every question.")
    for row in report["costs"]:
        typer.echo(f"{row['run']}: {row['folder']}")
