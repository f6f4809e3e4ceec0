"""`run`, `retrieve`, `rerank`: the commands that create runs."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer

from rerank.cli.output import (
    FormatOption,
    emit_output,
    format_json_output,
    format_number_cell,
    format_window_counts,
    print_note,
    print_table,
)
from rerank.cli.spec_options import ENGINE, RETRIEVAL, with_spec_command_options
from rerank.experiment.spec import Execution, RunSpec
from rerank.progress import show_progress as count
from rerank.terminal_text import unstripped_output_stream

if TYPE_CHECKING:
    from rerank.experiment import PreparedRun
    from rerank.tasks.batches import BatchStatus
    from rerank.types import Ranking, Run

DryRun = Annotated[bool, typer.Option("--dry-run", help="Estimate calls, tokens and cost without calling the model.")]
Output = Annotated[Path | None, typer.Option("--output", "-o", help="File for the run; if omitted, stdout.")]
SearchOutput = Annotated[
    Path | None, typer.Option("--output", "--out", "-o", help="File for the run; if omitted, stdout.")
]


def register_cli_commands(app: typer.Typer) -> None:
    """Add the commands ``run``, ``retrieve`` and ``rerank``."""
    app.command("run", epilog=_EXAMPLES["run"])(run_command)
    app.command("retrieve", epilog=_EXAMPLES["retrieve"])(retrieve_command)
    app.command("rerank", epilog=_EXAMPLES["rerank"])(rerank_command)


_EXAMPLES = {
    "run": "Example: rerank run --collection pydoc --method sliding --model smollm2-135m --depth 30 --max-queries 5",
    "retrieve": "Example: rerank retrieve --collection pydoc --first-stage bm25,k1=1.2 --depth 100 -o bm25.trec",
    "rerank": "Example: rerank rerank --collection requests:lists.jsonl --model smollm2-135m -o reranked.trec",
}


@with_spec_command_options()
def run_command(spec: RunSpec, execution: Execution, *, dry_run: DryRun = False, form: FormatOption = "text") -> None:
    """Retrieve, rerank and evaluate, and save the results in a run folder.

    With --resume and --out, omitted options are taken from the folder's spec.json.
    """
    from rerank.experiment import check_failure_rate, check_run_folder, estimate_run_cost, prepare_run

    check_run_folder(execution)
    prepared = prepare_run(spec, execution)
    if dry_run:
        expected = estimate_run_cost(prepared, in_batches=execution.provider_batch)
        emit_output(
            expected,
            form=form,
            text=lambda: print_table(list(expected), [[_printed_run_value_or_unknown(v) for v in expected.values()]]),
        )
        return
    summary = execute_with_progress_bar(prepared, execution)
    emit_output(summary, form=form, text=lambda: _print_run_summary(summary))
    check_failure_rate(summary, spec.max_failure_rate)


@with_spec_command_options(only=(*RETRIEVAL, *ENGINE))
def retrieve_command(
    spec: RunSpec, execution: Execution, *, output: SearchOutput = None, form: FormatOption = "text"
) -> None:
    """Retrieve without reranking: write the first-stage rankings as a TREC run.

    With --format json, time, index size and scores are printed instead of the run; --out writes the run to a file.
    """
    from rerank.experiment.first_stage_search import run_first_stage_experiment
    from rerank.io.text_files import check_file_writable

    if output is not None:
        check_file_writable(output)  # before an index is built
    result = run_first_stage_experiment(spec, execution)
    if not any(map(len, result.run.values())):
        print_note("No document was found for any query; the run is empty")
    if form == "text" or output is not None:
        _write_run_output(result.run, output)
    else:
        print_note("The rankings are not saved; pass --out FILE to write them")
    content = {
        "run": None if output is None else str(output),
        "queries": len(result.run),
        "seconds": result.seconds,
        "index_mb": result.index_mb,
        "scores": dict(result.scores),
    }
    emit_output(content, form=form, text=lambda: None)
    if form == "text" and "measures" in spec.model_fields_set:
        print_note(", ".join(f"{name}: {format_number_cell(value)}" for name, value in result.scores.items()))


@with_spec_command_options(first_stage="candidates")
def rerank_command(
    spec: RunSpec,
    execution: Execution,
    *,
    output: Output = None,
    form: FormatOption = "text",
) -> None:
    """Rerank existing rankings, given as --collection requests:FILE or --first-stage run:FILE.

    The output is a TREC run or, with --format jsonl, one object per query in rank_llm's format. No qrels are needed.
    """
    from rerank.experiment import check_failure_rate, prepare_run
    from rerank.io.text_files import check_file_writable, open_text_file
    from rerank.store import RunFolder

    if output is not None:
        check_file_writable(output)  # before the first call
    prepared = prepare_run(spec, execution, judged_only=False)
    summary = execute_with_progress_bar(prepared, execution)
    folder = RunFolder(summary["folder"])
    with _open_output_option_or_stdout(output) as target:
        if form == "text":
            with open_text_file(folder.path / "run.trec") as result:
                shutil.copyfileobj(result, target)
        else:
            _print_request_rows(folder.results(prepared.lists), target, whole=form == "json")
    _print_run_costs(summary)
    check_failure_rate(summary, spec.max_failure_rate)


def execute_with_progress_bar(prepared: PreparedRun, execution: Execution) -> dict[str, Any]:
    """Execute a run with a progress bar on stderr. On Ctrl-C, print how to continue the run, and exit."""
    from rerank.experiment import execute_run, show_run_progress

    try:
        with show_run_progress(prepared) as on_reply:
            return execute_run(prepared, execution, on_reply=on_reply, on_batch=_make_batch_printer())
    except KeyboardInterrupt:
        print_note("Stopped. Committed calls are kept; the same command with --resume continues.")
        sys.exit(130)


def _make_batch_printer() -> Callable[[BatchStatus], None]:
    """Return a function that prints the state of a batch of requests at the provider whenever it has changed."""
    seen: dict[str, BatchStatus] = {}

    def show(status: BatchStatus) -> None:
        if seen.get(status.id) != status:
            print_note(f"batch {status.id}: {status.state}, {status.done} of {status.total} requests")
        seen[status.id] = status

    return show


@contextmanager
def show_command_progress_bar(title: str, total: int) -> Iterator[Callable[[object], None]]:
    """Show a progress bar, and yield a function that advances it by one. The function ignores its argument."""
    with count(title, total, bound="at most") as advance:
        yield lambda done: advance(1)


def _write_run_output(run: Run, output: Path | None) -> None:
    from rerank.io.run_files import write_run

    write_run(run, output or _stdout_stream_for_trec_run())


@contextmanager
def _open_output_option_or_stdout(output: Path | None) -> Iterator[TextIO]:
    """Yield the stream to write to: stdout, or a file that is replaced when the context ends."""
    from rerank.io.text_files import replace_text_file

    with nullcontext(_stdout_stream_for_trec_run()) if output is None else replace_text_file(output) as target:
        yield target


def _stdout_stream_for_trec_run() -> TextIO:
    """Return the stream for a run on stdout; control characters in ids are removed only on a terminal."""
    return sys.stdout if sys.stdout.isatty() else unstripped_output_stream(sys.stdout)


def _print_request_rows(results: Iterable[tuple[Ranking, Ranking]], target: TextIO, *, whole: bool) -> None:
    """Write pairs of candidates and reranked lists in rank_llm's format, one per line or as one list."""
    from rerank.io.rerank_requests import format_request_row

    before, between, after = ("[", ", ", "]\n") if whole else ("", "", "")
    target.write(before)
    for number, (candidates, result) in enumerate(results):
        row = format_json_output(format_request_row(candidates, result))
        target.write(f"{between if number else ''}{row}" if whole else f"{row}\n")
    target.write(after)


def _print_run_summary(summary: dict[str, Any]) -> None:
    measures = summary["scores"]
    if measures:
        rows = [["first stage", *map(format_number_cell, summary["first_stage_scores"].values())]]
        rows.append([summary["method"], *map(format_number_cell, measures.values())])
        print_table(["", *measures], rows)
    _print_run_costs(summary)


def _print_run_costs(summary: dict[str, Any]) -> None:
    """Print the cost and the folder of a run on stderr."""
    print_note(f"windows: {format_window_counts(summary['windows'])}")
    print_note(
        f"calls: {summary['calls']} ({summary['reused_calls']} reused), tokens: {summary['tokens_in']} in"
        f"{_cached_share_note(summary)}, "
        f"{summary['tokens_out']} out, model time: {summary['seconds']:.1f} s"
    )
    if unmatched := summary.get("unmatched_calls"):
        print_note(
            f"{unmatched} logged calls match no request of this run; if an earlier version made these calls, its "
            "prompts were different, and the requests were sent again"
        )
    if summary["missing"]:
        print_note(f"{summary['missing']} judged queries have no ranking; they score 0")
    print_note(f"folder: {summary['folder']}")


def _cached_share_note(summary: dict[str, Any]) -> str:
    share = summary.get("cached_share", 0)  # missing in folders of older versions
    return f" ({share:.0%} from a cache)" if share else ""


def _printed_run_value_or_unknown(value: object) -> object:
    return "unknown" if value is None else value
