"""`run`, `retrieve`, `rerank`: the commands that make runs."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rerank.cli.output import FormatOption, counts, emit, note, number, table
from rerank.cli.specs import RETRIEVAL, with_spec
from rerank.experiment.spec import Execution, RunSpec
from rerank.progress import progress as count

if TYPE_CHECKING:
    from rerank.experiment import Prepared
    from rerank.types import Run

DryRun = Annotated[bool, typer.Option("--dry-run", help="Count calls, tokens and money; ask the model nothing.")]
Output = Annotated[Path | None, typer.Option("--output", "-o", help="Write the run there instead of on stdout.")]
SearchOutput = Annotated[
    Path | None, typer.Option("--output", "--out", "-o", help="Write the run there instead of on stdout.")
]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("run", epilog=_EXAMPLES["run"])(run)
    app.command("retrieve", epilog=_EXAMPLES["retrieve"])(retrieve)
    app.command("rerank", epilog=_EXAMPLES["rerank"])(rerank)


_EXAMPLES = {
    "run": "Example: rerank run --collection pydoc --method sliding --model smollm2-135m --depth 30 --max-queries 5",
    "retrieve": "Example: rerank retrieve --collection pydoc --first-stage bm25,k1=1.2 --depth 100 -o bm25.trec",
    "rerank": "Example: rerank rerank --collection requests:lists.jsonl --model smollm2-135m -o reranked.trec",
}


@with_spec()
def run(spec: RunSpec, execution: Execution, *, dry_run: DryRun = False, form: FormatOption = "text") -> None:
    """Retrieve, rerank and evaluate; keep everything in a run folder."""
    from rerank.experiment import check_failures, estimate, prepare

    prepared = prepare(spec, execution)
    if dry_run:
        expected = estimate(prepared)
        emit(expected, form=form, text=lambda: table(list(expected), [[_dash(v) for v in expected.values()]]))
        return
    summary = execute_with_progress(prepared, execution)
    emit(summary, form=form, text=lambda: _show(summary))
    check_failures(summary, spec.max_failure_rate)


@with_spec(only=RETRIEVAL)
def retrieve(spec: RunSpec, execution: Execution, *, output: SearchOutput = None, form: FormatOption = "text") -> None:
    """Search only: write the first stage's lists as a TREC run.

    With --format json, what it took and how good it is stands on stdout instead, and the run in the file of --out.
    """
    from rerank.experiment.searching import search
    from rerank.io.text_files import check_writable

    del execution
    if output is not None:
        check_writable(output)  # now, not after an hour of indexing
    found = search(spec)
    if not any(map(len, found.run.values())):
        note("Nothing was found for any query, so the run is empty")
    if form == "text" or output is not None:
        _write(found.run, output)
    else:
        note("The lists themselves are not kept; --out FILE writes them")
    content = {
        "run": None if output is None else str(output),
        "queries": len(found.run),
        "seconds": found.seconds,
        "index_mb": found.index_mb,
        "scores": dict(found.scores),
    }
    emit(content, form=form, text=lambda: None)
    if form == "text" and "measures" in spec.model_fields_set:
        note(", ".join(f"{name}: {number(value)}" for name, value in found.scores.items()))


@with_spec(first_stage="candidates")
def rerank(
    spec: RunSpec,
    execution: Execution,
    *,
    output: Output = None,
    form: FormatOption = "text",
) -> None:
    """Rerank lists that are there already, given as --collection requests:FILE or --first-stage run:FILE.

    Writes a TREC run, or with --format jsonl one object a query in rank_llm's shape. Needs no judgments.
    """
    from rerank.experiment import check_failures, prepare
    from rerank.io.text_files import check_writable
    from rerank.store import RunFolder

    if output is not None:
        check_writable(output)  # now, not after hours of calls
    prepared = prepare(spec, execution, judged_only=False)
    summary = execute_with_progress(prepared, execution)
    result = RunFolder(summary["folder"]).read_run("run.trec")
    if form == "text":
        _write(result, output)
    else:
        _write_rows(prepared, result, output, whole=form == "json")
    _say(summary)
    check_failures(summary, spec.max_failure_rate)


def execute_with_progress(prepared: Prepared, execution: Execution) -> dict[str, Any]:
    """Execute a run, with a progress bar where stderr is a terminal, and say how to go on if it is stopped."""
    from rerank.experiment import execute

    try:
        with progress(prepared.method.name, prepared.calls()) as on_reply:
            return execute(prepared, execution, on_reply=on_reply)
    except KeyboardInterrupt:
        note("Stopped. Committed calls are kept; the same command with --resume goes on.")
        sys.exit(130)


@contextmanager
def progress(title: str, total: int) -> Iterator[Callable[[object], None]]:
    """What `rerank.progress` shows, advanced by one with every call of what it yields, whatever that is told."""
    with count(title, total, bound="at most") as advance:
        yield lambda done: advance(1)


def _write(run: Run, output: Path | None) -> None:
    from rerank.io.run_files import write_run

    write_run(run, output or sys.stdout)


def _write_rows(prepared: Prepared, result: Run, output: Path | None, *, whole: bool) -> None:
    from rerank.io.rerank_requests import request_rows
    from rerank.io.text_files import replace_text

    rows = request_rows(prepared.first_stage, result)
    lines = [json.dumps(rows, ensure_ascii=False)] if whole else [json.dumps(row, ensure_ascii=False) for row in rows]
    text = "".join(f"{line}\n" for line in lines)
    if output is None:
        typer.echo(text, nl=False)
        return
    with replace_text(output) as file:
        file.write(text)


def _show(summary: dict[str, Any]) -> None:
    measures = summary["scores"]
    if measures:
        rows = [["first stage", *map(number, summary["first_stage_scores"].values())]]
        rows.append([summary["method"], *map(number, measures.values())])
        table(["", *measures], rows)
    _say(summary)


def _say(summary: dict[str, Any]) -> None:
    """What a run took and where it lies, on stderr."""
    note(f"windows: {counts(summary['windows'])}")
    note(
        f"calls: {summary['calls']} ({summary['reused_calls']} reused), tokens: {summary['tokens_in']} in, "
        f"{summary['tokens_out']} out, model time: {summary['seconds']:.1f} s"
    )
    if summary["missing"]:
        note(f"{summary['missing']} judged queries have no list; they score 0")
    note(f"folder: {summary['folder']}")


def _dash(value: object) -> object:
    return "unknown" if value is None else value
