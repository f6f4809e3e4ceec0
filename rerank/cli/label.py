"""`label`: create and check training lists. The modules `label_files` and `label_split` process label files."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from rerank.cli import label_files as labelfiles
from rerank.cli import label_queries as labelqueries
from rerank.cli import label_split as labelsplit
from rerank.cli.label_options import (
    Against,
    Collection,
    Lists,
    Threshold,
    load_test_queries_option,
    look_up_texts_option,
    print_leaks_note,
    print_skipped_lists_note,
    read_label_file_argument,
    resolve_threshold_option,
)
from rerank.cli.option_groups import expand_option_groups
from rerank.cli.output import (
    FormatOption,
    emit_output,
    format_number_cell,
    format_window_counts,
    print_note,
    print_table,
)
from rerank.cli.run import DryRun, execute_with_progress_bar
from rerank.cli.spec_options import with_spec_command_options
from rerank.errors import DataError
from rerank.experiment.spec import Execution, RunSpec

_MAKE = (
    "Example: rerank label make --collection pydoc --method multipass --model smollm2-135m --depth 30 --max-queries 20 "
    "-o labels.jsonl"
)
_CHECK = "Example: rerank label check labels.jsonl --collection pydoc --against jsonl:data/jsonl"


def register_cli_commands(app: typer.Typer) -> None:
    """Add the command group ``label``."""
    label = typer.Typer(help="Create, check, filter, split and augment training lists.", no_args_is_help=True)
    label.command("make", epilog=_MAKE)(
        with_spec_command_options()(_command_with_positional_arguments(expand_option_groups(make_labels_command)))
    )
    label.command("check", epilog=_CHECK)(check_labels_command)
    labelfiles.register_cli_commands(label)
    labelsplit.register_cli_commands(label)
    labelqueries.register_cli_commands(label)
    app.add_typer(label, name="label")


def _command_with_positional_arguments(command: Callable[..., None]) -> Callable[..., None]:
    """Return a command that accepts ``spec`` and ``execution`` by position, as `with_spec_command_options` needs."""

    @functools.wraps(command)
    def call(spec: RunSpec, execution: Execution, **own: Any) -> None:
        command(spec=spec, execution=execution, **own)

    return call


@dataclass(frozen=True, kw_only=True)
class LabelMakeOptions:
    """Options for creating training lists, which teachers rank."""

    output: Annotated[Path, typer.Option("--output", "-o", help="Label file to write, one JSON object per line.")]
    teacher: Annotated[
        list[str] | None,
        typer.Option(
            help="Teacher: method (a run with --method and --model), run:FILE, qrels, qrels:FILE, dense:MODEL, or any "
            "first stage; repeatable, to fuse several teachers. (default: method)"
        ),
    ] = None
    fuse: Annotated[
        str, typer.Option(help="Fusion of several teachers: rrf (uses ranks), z-score or min-max (use scores).")
    ] = "rrf"
    weights: Annotated[str, typer.Option(help="One weight per teacher, as in 0.3+0.7. (default: all 1)")] = ""
    keep_failed: Annotated[
        bool,
        typer.Option("--keep-failed", help="Keep lists for which the teacher failed, in the order before the failure."),
    ] = False
    min_docs: Annotated[int, typer.Option(min=1, help="Omit lists with fewer candidates than this.")] = 2


def make_labels_command(
    spec: RunSpec,
    execution: Execution,
    labelling: LabelMakeOptions,
    *,
    dry_run: DryRun = False,
    form: FormatOption = "text",
) -> None:
    """Rank candidates with a teacher and write the rankings as training lists.

    The teacher `method` writes a run folder (--out), which --resume continues. Lists without a label are omitted and
    counted.
    """
    from rerank.experiment import check_failure_rate
    from rerank.finetune.labels.label_files import write_labels
    from rerank.finetune.labels.labelling import make_labels, prepare_labelling
    from rerank.io.text_files import check_file_writable

    plan = _labelling_plan_of_options(labelling)
    check_file_writable(labelling.output)  # before the first call
    ready = prepare_labelling(spec, execution, plan, run=execute_with_progress_bar)
    if dry_run:
        expected = ready.estimate()
        values = ["unknown" if value is None else value for value in expected.values()]
        emit_output(expected, form=form, text=lambda: print_table(list(expected), [values]))
        return
    result = make_labels(ready)
    if result.labels:
        write_labels(result.labels, labelling.output)
    report = {"output": str(labelling.output) if result.labels else None, **result.report}
    emit_output(report, form=form, text=lambda: _print_made_labels(report))
    for teacher in report["teachers"].values():
        if "failure_rate" in teacher:
            check_failure_rate(teacher, spec.max_failure_rate)
    result.check()


def _labelling_plan_of_options(labelling: LabelMakeOptions) -> Any:
    from rerank.finetune.labels.label_fusion import LabelFusion
    from rerank.finetune.labels.labelling import LabellingPlan

    return LabellingPlan(
        teachers=tuple(labelling.teacher or ["method"]),
        fusion=LabelFusion.make(labelling.fuse, labelling.weights),
        keep_failed=labelling.keep_failed,
        min_docs=labelling.min_docs,
    )


def _print_made_labels(report: Mapping[str, Any]) -> None:
    print_table(
        ["queries", "lists", "failed", "candidates without a label"],
        [[report["queries"], report["written"], report["failed_lists"], report["silent"]]],
    )
    for reason, count in report["left_out"].items():
        print_note(f"omitted: {count}, {reason}")
    for name, teacher in report["teachers"].items():
        if "windows" in teacher:
            print_note(f"{name}: windows: {format_window_counts(teacher['windows'])}; folder: {teacher['folder']}")
        elif teacher:
            print_note(f"{name}: {', '.join(f'{key} {value}' for key, value in teacher.items())}")
    if report["output"]:
        print_note(f"written: {report['output']}")


def check_labels_command(
    file: Lists,
    collection: Collection = None,
    against: Against = None,
    threshold: Threshold = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit with code 5 if surface features predict labels or a query leaks.")
    ] = False,
    form: FormatOption = "text",
) -> None:
    """Check training lists: report counts, whether surface features predict the labels, and leaked test queries.

    The check of surface features needs texts, so label files need --collection.
    """
    from rerank.finetune.labels.checking import check_labels as look

    labels, lists, skipped = read_label_file_argument(file, collection)
    texts = look_up_texts_option(labels, collection, needed=bool(against))
    report = look(
        labels,
        lists,
        texts=texts,
        against=load_test_queries_option(against),
        threshold=resolve_threshold_option(threshold),
    )
    report = {"file": str(file), **report, "skipped": dict(skipped)}
    emit_output(report, form=form, text=lambda: _print_checked_labels(report))
    if strict and ((report["probe"] or {}).get("warns") or report["leaks"]):
        raise DataError(
            f"{file}: {'surface features predict labels' if (report['probe'] or {}).get('warns') else 'queries leak'}",
            remedy="Read the report above",
        )


def _print_checked_labels(report: Mapping[str, Any]) -> None:
    sizes = report["docs_per_list"]
    rows = [
        *([name, report[name]] for name in ("lists", "queries", "documents")),
        ["documents per list", f"{sizes['min']} to {sizes['max']}, mean {sizes['mean']:.1f}"],
        ["tau of label and list", format_number_cell(report["tau"])],
        *([name, report[name]] for name in ("unchanged", "with_scores", "repeated")),
    ]
    for feature in (report["probe"] or {}).get("features", ()):
        low, high = feature["ci"]
        rows.append([f"AUC of {feature['feature']}", f"{feature['auc']:.3f} ({low:.3f} to {high:.3f})"])
    if report["leaks"] is not None:
        rows.append(["leaks", report["leaks"]])
    print_table(["", report["file"]], rows)
    print_skipped_lists_note(report["skipped"])
    print_leaks_note(report["leaking"], report["leaks"] or 0)
    if report["probe"] is None:
        print_note("Surface features were not checked, because this needs texts; pass --collection")
    for line in (report["probe"] or {}).get("notes", ()):
        print_note(line)
