"""`label`: training lists from teachers, and a look at what they are like. What is done to files is in `labelfiles`."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from rerank.cli import labelfiles, labelqueries, labelsplit
from rerank.cli.groups import unfolded
from rerank.cli.labelreading import (
    Against,
    Collection,
    Lists,
    Threshold,
    known_texts,
    queries_of,
    read,
    say_leaks,
    say_skipped,
    threshold_of,
)
from rerank.cli.output import FormatOption, counts, emit, note, number, table
from rerank.cli.run import DryRun, execute_with_progress
from rerank.cli.specs import with_spec
from rerank.errors import DataError
from rerank.experiment.spec import Execution, RunSpec

_MAKE = (
    "Example: rerank label make --collection pydoc --method multipass --model smollm2-135m --depth 30 --max-queries 20 "
    "-o labels.jsonl"
)
_CHECK = "Example: rerank label check labels.jsonl --collection pydoc --against jsonl:data/jsonl"


def register(app: typer.Typer) -> None:
    """Add the command group."""
    label = typer.Typer(help="Training lists: made by teachers, read, checked, split, varied.", no_args_is_help=True)
    label.command("make", epilog=_MAKE)(with_spec()(_placed(unfolded(make))))
    label.command("check", epilog=_CHECK)(check)
    labelfiles.register(label)
    labelsplit.register(label)
    labelqueries.register(label)
    app.add_typer(label, name="label")


def _placed(command: Callable[..., None]) -> Callable[..., None]:
    """The same command with its first two parameters by position, as `with_spec` gives them."""

    @functools.wraps(command)
    def call(spec: RunSpec, execution: Execution, **own: Any) -> None:
        command(spec=spec, execution=execution, **own)

    return call


@dataclass(frozen=True, kw_only=True)
class Labelling:
    """Who labels, and what becomes a list."""

    output: Annotated[Path, typer.Option("--output", "-o", help="The lists, one JSON object a line.")]
    teacher: Annotated[
        list[str] | None,
        typer.Option(
            help="method (the run of --method and --model), run:FILE, qrels or qrels:FILE, dense:MODEL, or any first "
            "stage; repeatable, and then fused. (default: method)"
        ),
    ] = None
    fuse: Annotated[
        str, typer.Option(help="How several teachers are joined: rrf (by ranks), z-score or min-max (of scores).")
    ] = "rrf"
    weights: Annotated[str, typer.Option(help="One number a teacher, as in 0.3+0.7. (default: all 1)")] = ""
    keep_failed: Annotated[
        bool, typer.Option("--keep-failed", help="Keep lists whose teacher failed, in the order that it left them.")
    ] = False
    min_docs: Annotated[int, typer.Option(min=1, help="Leave lists of fewer candidates out.")] = 2


def make(
    spec: RunSpec,
    execution: Execution,
    labelling: Labelling,
    *,
    dry_run: DryRun = False,
    form: FormatOption = "text",
) -> None:
    """Let a teacher put candidates in order, and write the orders as training lists.

    A teacher that is a method is a run: it has a folder (--out), and --resume goes on where it stopped. Lists without a
    label are left out and counted.
    """
    from rerank.experiment import check_failures
    from rerank.finetune.labels.files import write_labels
    from rerank.finetune.labels.making import get_ready, make_labels
    from rerank.io.text_files import check_writable

    plan = _plan(labelling)
    check_writable(labelling.output)  # now, not after hours of calls
    ready = get_ready(spec, execution, plan, run=execute_with_progress)
    if dry_run:
        expected = ready.estimate()
        values = ["unknown" if value is None else value for value in expected.values()]
        emit(expected, form=form, text=lambda: table(list(expected), [values]))
        return
    made = make_labels(ready)
    if made.labels:
        write_labels(made.labels, labelling.output)
    report = {"output": str(labelling.output) if made.labels else None, **made.report}
    emit(report, form=form, text=lambda: _show_made(report))
    for told in report["teachers"].values():
        if "failure_rate" in told:
            check_failures(told, spec.max_failure_rate)
    made.check()


def _plan(labelling: Labelling) -> Any:
    from rerank.finetune.labels.fusing import Fusion
    from rerank.finetune.labels.making import Plan

    return Plan(
        teachers=tuple(labelling.teacher or ["method"]),
        fusion=Fusion.make(labelling.fuse, labelling.weights),
        keep_failed=labelling.keep_failed,
        min_docs=labelling.min_docs,
    )


def _show_made(report: Mapping[str, Any]) -> None:
    table(
        ["queries", "lists", "failed", "candidates nobody spoke about"],
        [[report["queries"], report["written"], report["failed_lists"], report["silent"]]],
    )
    for reason, count in report["left_out"].items():
        note(f"left out: {count}, {reason}")
    for name, told in report["teachers"].items():
        if "windows" in told:
            note(f"{name}: windows: {counts(told['windows'])}; folder: {told['folder']}")
        elif told:
            note(f"{name}: {', '.join(f'{key} {value}' for key, value in told.items())}")
    if report["output"]:
        note(f"written: {report['output']}")


def check(
    file: Lists,
    collection: Collection = None,
    against: Against = None,
    threshold: Threshold = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit with code 5 where form gives labels away or a query leaks.")
    ] = False,
    form: FormatOption = "text",
) -> None:
    """Look lists through: counts, whether form alone gives the labels away, and queries that are also test queries.

    The probe needs texts, so label files need --collection for it.
    """
    from rerank.finetune.labels.checking import check as look

    labels, lists, skipped = read(file, collection)
    texts = known_texts(labels, collection, needed=bool(against))
    report = look(
        labels,
        lists,
        texts=texts,
        against=queries_of(against),
        threshold=threshold_of(threshold),
    )
    report = {"file": str(file), **report, "skipped": dict(skipped)}
    emit(report, form=form, text=lambda: _show_checked(report))
    if strict and ((report["probe"] or {}).get("warns") or report["leaks"]):
        raise DataError(
            f"{file}: {'form gives labels away' if (report['probe'] or {}).get('warns') else 'queries leak'}",
            remedy="See what is said above",
        )


def _show_checked(report: Mapping[str, Any]) -> None:
    sizes = report["docs_per_list"]
    rows = [
        *([name, report[name]] for name in ("lists", "queries", "documents")),
        ["documents a list", f"{sizes['min']} to {sizes['max']}, mean {sizes['mean']:.1f}"],
        ["tau of label and list", number(report["tau"])],
        *([name, report[name]] for name in ("unchanged", "with_scores", "repeated")),
    ]
    for one in (report["probe"] or {}).get("features", ()):
        low, high = one["ci"]
        rows.append([f"AUC of {one['feature']}", f"{one['auc']:.3f} ({low:.3f} to {high:.3f})"])
    if report["leaks"] is not None:
        rows.append(["leaks", report["leaks"]])
    table(["", report["file"]], rows)
    say_skipped(report["skipped"])
    say_leaks(report["leaking"], report["leaks"] or 0)
    if report["probe"] is None:
        note("The probe needs texts: pass --collection")
    for line in (report["probe"] or {}).get("notes", ()):
        note(line)
