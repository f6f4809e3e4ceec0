"""`run`, `retrieve`, `rerank`, `demo`, `robustness`: the commands that create runs."""

import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Annotated, Any, Literal, TextIO

from typer import Option

from rerank.cli.app import command
from rerank.cli.options import MOST_REPETITIONS, DryRun, FormatOption, OptionGroup, WideOption
from rerank.cli.output import emit_content, emit_estimate, format_json, format_windows, print_note
from rerank.cli.spec_options import ENGINE, RETRIEVAL, takes_run_spec
from rerank.collections import SupportsCandidateStream
from rerank.errors import PartialFailureError, RerankError, UsageError
from rerank.experiment import (
    PreparedRun,
    check_failure_rate,
    check_run_folder,
    estimate_run_cost,
    execute_run,
    prepare_run,
    show_run_progress,
)
from rerank.experiment.execute import folder_of_run, run_tag
from rerank.experiment.spec import Execution, RunSpec
from rerank.io.reports import Grid, format_cell, make_grid
from rerank.io.run_files import write_run
from rerank.io.text_files import check_file_writable, open_text_file, replace_text_file
from rerank.progress import show_progress
from rerank.store import RunFolder
from rerank.tasks.backends import BatchStatus
from rerank.terminal_text import unstripped_output_stream


@command("run", "rerank run --collection pydoc --method sliding --model smollm2-135m --depth 30 --max-queries 5")
@takes_run_spec()
def run(spec: RunSpec, execution: Execution, *, dry_run: DryRun = False, form: FormatOption = "text") -> None:
    """Retrieve, rerank and evaluate, and save the results in a run folder.

    With --resume and --out, omitted options are taken from the folder's spec.json.
    """
    check_run_folder(execution)
    prepared = prepare_run(spec, execution)
    if "first_stage" not in spec.model_fields_set and isinstance(prepared.collection, SupportsCandidateStream):
        print_note(
            "BM25 searches all texts of the file; with --first-stage candidates, its own candidates are reranked"
        )
    if dry_run:
        emit_estimate(estimate_run_cost(prepared, in_batches=execution.provider_batch), form)
        return
    summary = execute_with_progress_bar(prepared, execution)
    scores: list[Grid] = []
    if summary["scores"]:
        rows = [
            ["first stage", *summary["first_stage_scores"].values()],
            [summary["method"], *summary["scores"].values()],
        ]
        scores.append(make_grid(["", *summary["scores"]], rows))
    emit_content(summary, [*scores, *_notes_on_costs(summary)], form)
    check_failure_rate(summary, spec.max_failure_rate)


@command("retrieve", "rerank retrieve --collection pydoc --first-stage bm25,k1=1.2 --depth 100 -o bm25.trec")
@takes_run_spec(only=(*RETRIEVAL, *ENGINE))
def retrieve(
    spec: RunSpec,
    execution: Execution,
    *,
    output: Annotated[
        Path | None, Option("--output", "--out", "-o", help="File for the run; if omitted, stdout.")
    ] = None,
    form: FormatOption = "text",
) -> None:
    """Retrieve without reranking: write the first-stage rankings as a TREC run.

    With --format json, time, index size and scores are printed instead of the run; --out writes the run to a file.
    """
    from rerank.experiment.candidates import search_first_stage

    if output is not None:
        check_file_writable(output, "TREC run")  # before an index is built
    result = search_first_stage(spec, execution)
    if not any(map(len, result.run.values())):
        print_note("No document was found for any query; the run is empty")
    if form == "text" or output is not None:
        write_run(result.run, output or _stdout_for_run())
    else:
        print_note("The rankings are not saved; pass --out FILE to write them")
    content = {
        "run": None if output is None else str(output),
        "queries": len(result.run),
        "seconds": result.seconds,
        "index_mb": result.index_mb,
        "scores": dict(result.scores),
    }
    scores = ", ".join(f"{name}: {value:.4f}" for name, value in result.scores.items())
    emit_content(content, [scores] if "measures" in spec.model_fields_set else [], form)


@command("rerank", "rerank rerank --collection requests:lists.jsonl --model smollm2-135m -o reranked.trec")
@takes_run_spec(first_stage="candidates")
def rerank(
    spec: RunSpec,
    execution: Execution,
    *,
    output: Annotated[Path | None, Option("--output", "-o", help="File for the run; if omitted, stdout.")] = None,
    form: FormatOption = "text",
) -> None:
    """Rerank existing rankings, given as --collection requests:FILE or --first-stage run:FILE.

    The output is a TREC run or, with --format jsonl, one object per query in rank_llm's format. No qrels are needed.
    """
    from rerank.io.rerank_requests import format_request_row

    if output is not None:
        # before the first call
        check_file_writable(output, "TREC run" if form == "text" else "list of rankings in JSON lines")
    prepared = prepare_run(spec, execution, judged_only=False)
    summary = execute_with_progress_bar(prepared, execution)
    folder = RunFolder(summary["folder"])
    with nullcontext(_stdout_for_run()) if output is None else replace_text_file(output) as target:
        if form == "text":
            with open_text_file(folder.path / "run.trec") as result:
                shutil.copyfileobj(result, target)
        else:
            rows = (format_json(format_request_row(*pair)) for pair in folder.results(prepared.lists))
            if form == "jsonl":
                target.writelines(f"{row}\n" for row in rows)
            else:
                target.write("[")
                target.writelines(f"{', ' if number else ''}{row}" for number, row in enumerate(rows))
                target.write("]\n")
    for note in _notes_on_costs(summary):
        print_note(note)
    check_failure_rate(summary, spec.max_failure_rate)


def execute_with_progress_bar(
    prepared: PreparedRun, execution: Execution, *, again: str = "the same command with --resume continues"
) -> dict[str, Any]:
    """Execute a run with a progress bar on stderr. On Ctrl-C, print how to continue the run, and exit."""
    seen: dict[str, BatchStatus] = {}

    def show_batch(status: BatchStatus) -> None:
        if seen.get(status.id) != status:
            print_note(f"batch {status.id}: {status.state}, {status.done} of {status.total} requests")
        seen[status.id] = status

    try:
        with show_run_progress(prepared) as on_reply:
            return execute_run(prepared, execution, on_reply=on_reply, on_batch=show_batch)
    except KeyboardInterrupt:
        print_note(f"Stopped. Committed calls are kept; {again}.")
        sys.exit(130)


@contextmanager
def progress_bar(title: str, total: int) -> Iterator[Callable[[object], None]]:
    """Show a progress bar, and yield a function that advances it by one. The function ignores its argument."""
    with show_progress(title, total, bound="at most") as advance:
        yield lambda done: advance(1)


def _stdout_for_run() -> TextIO:
    """Return the stream for a run on stdout; control characters in ids are removed only on a terminal."""
    return sys.stdout if sys.stdout.isatty() else unstripped_output_stream(sys.stdout)


def _notes_on_costs(summary: dict[str, Any]) -> Iterator[str]:
    share = summary.get("cached_share", 0)  # missing in folders of older versions
    yield f"windows: {format_windows(summary['windows'])}"
    yield (
        f"calls: {summary['calls']} ({summary['reused_calls']} reused), tokens: {summary['tokens_in']} in"
        f"{f' ({share:.0%} from a cache)' if share else ''}, {summary['tokens_out']} out, "
        f"model time: {summary['seconds']:.1f} s"
    )
    if unmatched := summary.get("unmatched_calls"):
        yield (
            f"{unmatched} logged calls match no request of this run; if an earlier version made these calls, its "
            "prompts were different, and the requests were sent again"
        )
    if summary["missing"]:
        yield f"{summary['missing']} judged queries have no ranking; they score 0"
    yield f"folder: {summary['folder']}"


@command("demo", "rerank demo")
def show_demo(
    everything: Annotated[bool, Option("--all", help="Use all queries instead of the fixed sample.")] = False,
    out: Annotated[Path, "Parent folder of the run folders."] = Path("runs/demo"),
    model: Annotated[str, "Model of the reranker."] = "smollm2-135m",
    wide: WideOption = False,
    form: FormatOption = "text",
) -> None:
    """Rank Python's documentation with BM25 and a small language model, and test which ranking is better."""
    from rerank.experiment import demo, prepare_run
    from rerank.models import MODELS
    from rerank.models.download import pull_model

    page = out / "before-and-after.html"
    if out.is_dir():
        check_file_writable(page, "page of the demo")
    if model in MODELS:
        pull_model(model, source="auto", progress=print_note)
    summaries, runs, failed = [], [], list[tuple[str, RerankError]]()
    for spec in demo.specify_runs(model=model, everything=everything):
        try:
            prepared = prepare_run(spec, Execution())
            print_note(
                f"{run_tag(prepared.spec)}: {prepared.calls()} calls for {len(prepared.first_stage)} queries, {model}"
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
    report = demo.compare_with_bm25(summaries)
    sentences = demo.describe_differences(report["comparison"])
    demo.write_page(page, report, sentences, runs)
    comparison = report["comparison"]
    content = {**report, "comparison": comparison.to_dict(), "differences": sentences, "page": str(page)}
    costs = [
        [
            *(row[key] for key in ("run", "calls", "reused_calls", "tokens_in", "tokens_out")),
            f"{row['seconds']:.1f}",
            format_windows(row["windows"]),
        ]
        for row in report["costs"]
    ]
    heads = ["run", "calls", "reused", "tokens in", "tokens out", "model seconds", "windows"]
    caution = (
        "The sample contains only queries on which BM25 can be improved. Use it to compare methods, not",
        "as a benchmark. `rerank demo --all` uses all queries.",
    )
    parts = [
        comparison.tables(),
        "In words, with the corrected p-values:",
        *(f"- {sentence}" for sentence in sentences),
        make_grid(heads, costs, further=True),
        *(() if everything else caution),
        *(f"{row['run']}: {row['folder']}" for row in report["costs"]),
    ]
    emit_content(content, parts, form, wide=wide)
    print_note(f"{sentences[0]}\nBefore and after, query by query: {page}")
    if failed:
        name, error = failed[0]
        raise PartialFailureError(
            f"{len(failed)} of the {len(failed) + len(runs)} runs failed; {name}: {error.found}",
            expected=error.expected,
            remedy=error.remedy,
        )


class ProbeOptions(OptionGroup):
    """Options for how the candidates of a robustness test are varied."""

    probe: Annotated[
        Literal["order", "injection"], "Vary the order of the candidates, or inject text into the passage ranked last."
    ] = "order"
    also_depth: Annotated[list[int] | None, Option(min=1, help="Additional depth; repeatable.")] = None
    also_first_stage: Annotated[list[str] | None, "Additional first stage; repeatable."] = None
    shuffles: Annotated[
        int | None,
        Option(min=0, max=MOST_REPETITIONS, help="Number of random orders (3 if omitted); the first uses --seed."),
    ] = None


@command(
    "robustness",
    "rerank robustness --collection pydoc --method sliding --model smollm2-135m --depth 30 --max-queries 5 "
    "--shuffles 2",
)
@takes_run_spec()
def probe_robustness(
    spec: RunSpec, execution: Execution, *, options: ProbeOptions, dry_run: DryRun = False, form: FormatOption = "text"
) -> None:
    """Run a method on varied candidates and compare the results.

    --probe order uses first-stage, reversed and random order. --probe injection adds instructions, the query and
    forged identifiers to the passage that is ranked last. Each run has its own folder in --out or runs/; --resume
    continues unfinished runs.
    """
    from rerank.experiment import check_failure_rate, robustness

    if (injected := options.probe == "injection") and options.shuffles is not None:
        raise UsageError(
            f"--shuffles is given with --probe {options.probe}", expected="--shuffles only with --probe order"
        )
    prepared_cells = robustness.prepare_cells(
        spec,
        execution,
        depths=options.also_depth or (),
        first_stages=options.also_first_stage or (),
        shuffles=3 if options.shuffles is None else options.shuffles,
    )
    cells = list(prepared_cells)  # all runs are prepared before the first call, to find errors early
    if dry_run:
        emit_estimate((robustness.estimate_injections if injected else robustness.estimate_orders)(cells), form)
        return
    summaries = []

    def run_cell(prepared: PreparedRun, options: Execution) -> dict[str, Any]:
        spec = prepared.spec
        variant = prepared.lists.name if injected else robustness.candidate_order_name(spec)
        print_note(f"{spec.first_stage}, depth {spec.depth}, {variant}: {options.out}")
        summaries.append(execute_with_progress_bar(prepared, options))
        return summaries[-1]

    report = (robustness.measure_injections if injected else robustness.measure_orders)(cells, execution, run=run_cell)
    emit_content(report, _injection_parts(report) if injected else _order_parts(report), form, key="cells")
    for summary in summaries:
        check_failure_rate(summary, spec.max_failure_rate)


def _order_parts(report: dict[str, Any]) -> Iterator[Grid | str]:
    measures = list(report["cells"][0]["first_stage_scores"])
    rows: list[list[object]] = []
    for cell in report["cells"]:
        where = [cell["first_stage"], cell["depth"]]
        if measures:
            rows.append([*where, "first stage", *cell["first_stage_scores"].values(), "", ""])
        for row in cell["orders"]:
            rows.append([*where, row["order"], *(row["scores"][m] for m in measures), row["tau"], row["overlap"]])
        if measures:
            rows.append([*where, "best - worst", *cell["spread"].values(), "", ""])
    yield make_grid(["first stage", "depth", "order", *measures, "tau", "top 10"], rows)
    yield "tau, top 10: Kendall's tau, and overlap of the top ten, with the result for the order 'given'"


def _injection_parts(report: dict[str, Any]) -> Iterator[Grid | str]:
    rows = [
        [
            *(cell["first_stage"], cell["depth"], row["attack"], row["position"], cell["rank_before"], row["rank"]),
            *(_format_interval(row[key]) for key in ("rise", "first", "top_10")),
        ]
        for cell in report["cells"]
        for row in cell["attacks"]
    ]
    heads = ["first stage", "depth", "attack", "position", "rank before", "rank", "rise", "rank 1", "top 10"]
    yield make_grid(heads, rows, digits=1)
    yield "rise, rank 1, top 10: mean over queries of rank before minus rank, and fractions, with 95 % intervals"


def _format_interval(value: dict[str, float | None] | None) -> str:
    return "{} [{}, {}]".format(*(format_cell(value[key], 2) for key in ("mean", "low", "high"))) if value else "-"
