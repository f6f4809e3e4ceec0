"""`eval`: score runs with relevance judgments."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rerank.cli.option_groups import expand_option_groups
from rerank.cli.output import TableFormatOption, emit_output, format_number_cell, print_note, print_table
from rerank.cli.run_files import NamesOption, RunsArgument, expand_run_arguments, read_named_runs
from rerank.errors import UsageError

if TYPE_CHECKING:
    from rerank.evaluation import Scores

QrelsOption = Annotated[
    str, typer.Option("--qrels", help="Relevance judgments: a file, or the selector of a collection.")
]
Relevant = Annotated[
    int | None,
    typer.Option(
        min=1, help="Lowest grade that binary measures count as relevant; 2 for TREC Deep Learning. (default: 1)"
    ),
]


def register_cli_commands(app: typer.Typer) -> None:
    """Add the command ``eval``."""
    app.command("eval", epilog='Example: rerank eval a.trec b.trec --qrels qrels.txt -m nDCG@10 -m "AP(rel=2)"')(
        evaluate_command
    )


@dataclass(frozen=True, kw_only=True)
class DetailOptions:
    """Options for details that are shown in addition to the scores over all queries."""

    per_query: Annotated[bool, typer.Option("--per-query", "-q", help="Also print the scores per query.")] = False
    by: Annotated[
        str,
        typer.Option(
            help="Also score groups of queries: a field of the collection's queries, such as category, or a file with "
            "the columns query and group."
        ),
    ] = ""
    bounds: Annotated[
        bool | None,
        typer.Option(
            "--bounds/--no-bounds",
            help="Show the fraction of judged documents, and the range of each measure if all documents were judged. "
            "(default: for measures with few judged documents)",
        ),
    ] = None

    def read_groups(self, qrels: str) -> Mapping[str, str]:
        """Return a mapping from query id to group, read from the file or the collection's queries."""
        from rerank.collections import read_query_field
        from rerank.evaluation import read_query_groups

        return read_query_groups(self.by) if Path(self.by).is_file() else read_query_field(qrels, self.by)

    def check_format(self, form: str) -> None:
        """Check that a format can show the requested details."""
        if (self.by or self.per_query) and form in ("latex", "markdown", "html"):
            raise UsageError(
                f"--format {form} cannot be used with {'--by' if self.by else '--per-query'}",
                expected="text, json, jsonl or csv",
            )


@expand_option_groups
def evaluate_command(
    details: DetailOptions,
    *,
    runs: RunsArgument,
    qrels: QrelsOption,
    measures: Annotated[
        list[str], typer.Option("--measure", "-m", help="Measure, named as in ir_measures or trec_eval; repeatable.")
    ] = ["nDCG@10"],  # noqa: B006 (typer only reads the default)
    relevant: Relevant = None,
    names: NamesOption = None,
    form: TableFormatOption = "text",
) -> None:
    """Score runs. A judged query without a ranking scores 0 and is counted as missing.

    With --format csv, --by and --per-query print one line per run and group, or per run and query.
    """
    from rerank import evaluation
    from rerank.collections import open_collection_qrels
    from rerank.evaluation.grade_notes import evaluation_overlap_note, measure_grade_note, relevance_threshold_note

    details.check_format(form)
    judged, lowest = open_collection_qrels(qrels)
    lowest = relevant or lowest
    files = expand_run_arguments(runs)
    opened = read_named_runs(files, names or [])
    results = evaluation.evaluate_runs(judged, opened, measures, relevant=lowest)
    report = evaluation.evaluation_report(
        qrels, zip(map(str, files), results, strict=True), per_query=details.per_query
    )
    report["runs"] = [{**row, "name": run.name} for row, run in zip(report["runs"], opened, strict=True)]
    coverage, covered = evaluation.cover_runs_by_judgments(judged, opened, results[0].measures, bounds=details.bounds)
    report = evaluation.add_coverage_to_evaluation_report(report, coverage)
    columns = [entry.columns(covered) for entry in coverage]
    if details.by:
        groups = details.read_groups(qrels)
        grouped = [evaluation.evaluate_by_group(judged, run, measures, groups, relevant=lowest) for run in opened]
        report = evaluation.add_groups_to_evaluation_report(report, details.by, grouped)

    notes = [evaluation_overlap_note(judged, run) for run in opened]
    notes.append("" if relevant is not None else measure_grade_note(judged, results[0].measures))
    notes.append(relevance_threshold_note(judged, results[0].measures))
    emit_output(
        report,
        form=form,
        text=lambda: _print_evaluation(report, results[0], columns, details, notes),
        rows="runs",
        reports=[evaluation.table_of_evaluation(qrels, results, columns=columns)],
        records=evaluation.evaluation_records(report, covered) if form == "csv" else None,
    )


def _print_evaluation(
    report: Mapping[str, Any],
    scores: Scores,
    columns: Sequence[Mapping[str, str]],
    details: DetailOptions,
    notes: Sequence[str],
) -> None:
    """Print a table of the runs and, if requested, tables of the queries and of the query groups; then the notes.

    Args:
        report: The evaluation report.
        scores: Scores of the first run, from which the names of the measures are taken.
        columns: For each run, a mapping from heading to cell, for the columns about judged documents.
        details: Options that select what is printed.
        notes: Notes on the judgments; empty notes are omitted.
    """
    runs, names = report["runs"], scores.measures
    shown = sorted(zip(runs, columns, strict=True), key=lambda pair: -next(iter(pair[0]["scores"].values())))
    further = details.per_query or "by" in report
    heads = ["run", "queries", "missing", *names]
    cells = [[row["name"], *_printed_evaluation_cells(row)] for row, _ in shown]
    judged = [list(more.values()) for _, more in shown]
    if columns[0] and sys.stdout.isatty():  # a second table, because one with all columns would be too wide
        print_table(heads, cells)
        print_table(["run", *columns[0]], [[row[0], *more] for row, more in zip(cells, judged, strict=True)])
    else:
        print_table(
            [*heads, *columns[0]], [row + more for row, more in zip(cells, judged, strict=True)], further=further
        )
    if details.per_query and scores.values:
        keys = [(r["name"], q, values) for r in runs for q, values in r["per_query"].items()]
        rows = [[run, query, *map(format_number_cell, values.values())] for run, query, values in keys]
        print_table(["run", "query", *scores.values], rows)
    if "by" in report:
        rows = [
            [r["name"], group, *_printed_evaluation_cells(part)] for r in runs for group, part in r["groups"].items()
        ]
        print_table(["run", Path(report["by"]).name, "queries", "missing", *names], rows, further=details.per_query)
    if missing := [r["name"] for r in runs if r["missing"]]:
        print_note(f"Runs with judged queries that have no ranking and score 0: {', '.join(missing)}")
    if details.per_query and scores.overall:
        print_note(f"Measures without per-query values: {', '.join(scores.overall)}")
    for note in _notes_on_coverage(report, columns[0], details):
        print_note(note)
    for note in filter(None, notes):
        print_note(note)


def _notes_on_coverage(report: Mapping[str, Any], columns: Mapping[str, str], details: DetailOptions) -> Iterator[str]:
    """Yield notes on the columns about judged documents, and on measures without lowest and highest possible values."""
    bounded = report["runs"][0]["bounds"]
    if columns and details.bounds is None:
        yield "Few documents are judged: judged@k is their fraction; --no-bounds omits the added columns"
    if bounded:
        yield "Bounds are the lowest and highest values possible if all unjudged documents of a run were judged"
    if details.bounds and (without := [name for name in report["runs"][0]["scores"] if name not in bounded]):
        yield f"No bounds are computed for {', '.join(without)}"


def _printed_evaluation_cells(row: Mapping[str, Any]) -> list[object]:
    return [row["queries"], row["missing"], *map(format_number_cell, row["scores"].values())]
