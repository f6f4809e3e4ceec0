"""`demo`: rerank a collection that comes with every Python installation."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from rerank.cli.output import (
    FormatOption,
    WideOption,
    emit_output,
    format_window_counts,
    print_note,
    print_reports,
    print_table,
)
from rerank.cli.run import execute_with_progress_bar
from rerank.errors import PartialFailureError, RerankError


def register_cli_commands(app: typer.Typer) -> None:
    """Add the command ``demo``."""
    app.command("demo", epilog="Example: rerank demo")(demo_command)


def demo_command(
    everything: Annotated[bool, typer.Option("--all", help="Use all queries instead of the fixed sample.")] = False,
    out: Annotated[Path, typer.Option(help="Parent folder of the run folders.")] = Path("runs/demo"),
    model: Annotated[str, typer.Option(help="Model of the reranker.")] = "smollm2-135m",
    wide: WideOption = False,
    form: FormatOption = "text",
) -> None:
    """Rank Python's documentation with BM25 and a small language model, and test which ranking is better."""
    from rerank.cli.data import pull_with_progress_bar
    from rerank.experiment import prepare_run
    from rerank.experiment.demo import (
        compare_demo_with_bm25,
        demo_experiment_specs,
        describe_demo_differences,
        write_demo_page,
    )
    from rerank.experiment.execute import folder_of_run, run_tag_of_spec
    from rerank.experiment.spec import Execution
    from rerank.models import MODELS

    if model in MODELS:
        pull_with_progress_bar(model)
    summaries, runs, failed = [], [], list[tuple[str, RerankError]]()
    for spec in demo_experiment_specs(model=model, everything=everything):
        try:
            prepared = prepare_run(spec, Execution())
            print_note(
                f"{run_tag_of_spec(prepared.spec)}: {prepared.calls()} calls for "
                f"{len(prepared.first_stage)} queries, {model}"
            )
            execution = Execution(out=folder_of_run(prepared, out), resume=True)
            summaries.append(execute_with_progress_bar(prepared, execution))
            runs.append(prepared)
        except RerankError as failure:
            name = spec.adapter or spec.method
            failed.append((name, failure))
            print_note(f"The run with {name} failed, the demo goes on without it: {failure}")
    if not runs:
        raise failed[0][1]
    report = compare_demo_with_bm25(summaries)
    sentences = describe_demo_differences(report["comparison"])
    content = report | {"comparison": report["comparison"].to_dict(), "differences": sentences}
    page = out / "before-and-after.html"
    write_demo_page(page, report, sentences, runs)
    shown = partial(_print_demo_report, report, sentences, everything=everything, wide=wide)
    emit_output(content | {"page": str(page)}, form=form, text=shown)
    print_note(f"{sentences[0]}\nBefore and after, query by query: {page}")
    if failed:
        name, error = failed[0]
        raise PartialFailureError(
            f"{len(failed)} of the {len(failed) + len(runs)} runs failed; {name}: {error.found}",
            expected=error.expected,
            remedy=error.remedy,
        )


def _print_demo_report(report: dict[str, Any], sentences: list[str], *, everything: bool, wide: bool) -> None:
    print_reports([report["comparison"].tables()], wide=wide)
    print_note("In words, with the corrected p-values:")
    for sentence in sentences:
        print_note(f"- {sentence}")
    headers = ["run", "calls", "reused", "tokens in", "tokens out", "model seconds", "windows"]
    keys = ("run", "calls", "reused_calls", "tokens_in", "tokens_out")
    rows = [
        [*(row[k] for k in keys), f"{row['seconds']:.1f}", format_window_counts(row["windows"])]
        for row in report["costs"]
    ]
    print_table(headers, rows, further=True)
    if not everything:
        print_note("The sample contains only queries on which BM25 can be improved. Use it to compare methods, not")
        print_note("as a benchmark. `rerank demo --all` uses all queries.")
    for row in report["costs"]:
        print_note(f"{row['run']}: {row['folder']}")
