"""`calibrate`: fit a calibration that converts scores to probabilities of relevance."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from rerank.cli.output import FormatOption, emit_output, format_number_cell, print_note, print_table


def register_cli_commands(app: typer.Typer) -> None:
    """Add the command ``calibrate``."""
    app.command("calibrate", epilog="Example: rerank calibrate runs/FOLDER --complete --out calibration.json")(
        calibrate_command
    )


def calibrate_command(
    runs: Annotated[
        list[Path],
        typer.Argument(metavar="RUN...", help="Folders of finished runs with the same ranker and first stage."),
    ],
    out: Annotated[
        Path, typer.Option(help="Calibration file to write; a reliability diagram (svg) is written next to it.")
    ],
    qrels: Annotated[
        str | None,
        typer.Option(help="Relevance judgments: a file, or the selector of a collection. (default: the folder's own)"),
    ] = None,
    relevant: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Lowest grade that counts as relevant in the runs and in test files; test collections have their own. "
            "(default: set by the judgments)",
        ),
    ] = None,
    test: Annotated[
        list[str] | None,
        typer.Option(metavar="RUN:QRELS", help="Run on other queries, used only to test the calibration; repeatable."),
    ] = None,
    complete: Annotated[
        bool,
        typer.Option(
            "--complete", help="Count unjudged documents as not relevant, for qrels that list only relevant documents."
        ),
    ] = False,
    form: FormatOption = "text",
) -> None:
    """Fit a calibration that converts the scores of a run to probabilities of relevance, and test it.

    The test uses held-out queries. Scores that depend on the other documents of a list, such as attention scores, need
    one run folder per depth.
    """
    from rerank.experiment.calibrate import calibrate_experiment_runs

    report = calibrate_experiment_runs(runs, out, qrels=qrels, relevant=relevant, tests=test or (), complete=complete)
    emit_output(report, form=form, text=lambda: _print_calibration_report(report), rows="rows")
    print_note(f"calibration: {report['file']}")
    print_note(f"reliability diagram: {report['diagram']}")


def _print_calibration_report(report: dict[str, Any]) -> None:
    measures = ("ece", "brier", "brier_skill", "auc")
    headers = ["fit", "collection", "depth", "queries", "items", *measures, "ece by chance"]
    # if the judge has scores, the fits by rank are used only for documents without a judge score
    base = report["fit"].partition("+")[0]
    documents, lists = ([row for row in report[part] if row["fit"].startswith(base)] for part in ("rows", "answerable"))
    rows = [_printed_calibration_cells(row, row["fit"], row["documents"], measures) for row in documents]
    rows += [_printed_calibration_cells(row, f"answerable, {row['fit']}", row["lists"], measures) for row in lists]
    print_table(headers, rows)
    omitted = f"{report['unjudged']} documents without a judgment are omitted. " if report["unjudged"] else ""
    print_note(f"{omitted}Intervals: 95%, over queries.")
    print_note(f"ece: {report['binning']}. ece by chance: the ece that perfect probabilities would have here.")


def _printed_calibration_cells(row: dict[str, Any], name: str, count: int, measures: tuple[str, ...]) -> list[object]:
    collection = row["collection"] + (", held-out" if row["held_out"] else "")

    def values() -> Iterator[str]:
        for measure in measures:
            interval = row["intervals"].get(measure)
            bounds = f" [{interval[0]:.3f}, {interval[1]:.3f}]" if interval else ""
            yield f"{format_number_cell(row[measure], 3)}{bounds}"

    return [
        name,
        collection,
        row["depth"],
        row["queries"],
        count,
        *values(),
        format_number_cell(row["ece_by_chance"], 3),
    ]
