"""`calibrate`: probabilities of relevance from the scores of a run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from rerank.cli.output import FormatOption, emit_output, format_number_cell, print_note, print_table


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("calibrate", epilog="Example: rerank calibrate runs/FOLDER --complete --out calibration.json")(
        calibrate_command
    )


def calibrate_command(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="Folders of finished runs of one ranker and first stage.")
    ],
    out: Annotated[Path, typer.Option(help="File to write; a reliability diagram (svg) is written beside it.")],
    qrels: Annotated[
        str | None,
        typer.Option(help="Relevance judgments: a file, or the selector of a collection. (default: the folder's own)"),
    ] = None,
    relevant: Annotated[
        int | None,
        typer.Option(min=1, help="Lowest grade that counts as relevant. (default: that of the judgments)"),
    ] = None,
    test: Annotated[
        list[str] | None,
        typer.Option(metavar="RUN:QRELS", help="Run on another collection, which is only reported; repeatable."),
    ] = None,
    complete: Annotated[
        bool,
        typer.Option(
            "--complete", help="Count unjudged documents as not relevant, for qrels that list relevant documents only."
        ),
    ] = False,
    form: FormatOption = "text",
) -> None:
    """Fit probabilities of relevance to the scores of a run, and report them on held-out queries.

    Scores that depend on the list, such as attention, need one run folder for each depth.
    """
    from rerank.experiment.calibrate import calibrate_run_folders

    report = calibrate_run_folders(runs, out, qrels=qrels, relevant=relevant, tests=test or (), complete=complete)
    emit_output(report, form=form, text=lambda: _print_calibration_report(report), rows="rows")
    print_note(f"calibration: {report['file']}")
    print_note(f"reliability diagram: {report['diagram']}")


def _print_calibration_report(report: dict[str, Any]) -> None:
    measures = ("ece", "brier", "brier_skill", "auc")
    headers = ["fit", "collection", "depth", "queries", "items", *measures, "ece by chance"]
    # The fits by rank are only used for documents without a judge score, if the judge has scores.
    base = report["fit"].partition("+")[0]
    documents, lists = ([row for row in report[part] if row["fit"].startswith(base)] for part in ("rows", "answerable"))
    rows = [_calibration_cells(row, row["fit"], row["documents"], measures) for row in documents]
    rows += [_calibration_cells(row, f"answerable, {row['fit']}", row["lists"], measures) for row in lists]
    print_table(headers, rows)
    print_note(f"{report['unjudged']} documents without a judgment are left out. Intervals: 95%, over queries.")
    print_note(f"ece: {report['binning']}. ece by chance: expected for perfect probabilities with so few queries.")


def _calibration_cells(row: dict[str, Any], name: str, count: int, measures: tuple[str, ...]) -> list[object]:
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
