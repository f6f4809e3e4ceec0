"""`eval`: scores of runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from rerank.cli.output import FormatOption, emit, note, number, table
from rerank.cli.runfiles import RunsArgument, run_files

QrelsOption = Annotated[str, typer.Option("--qrels", help="Judgments: a file, or a collection's selector.")]
Relevant = Annotated[
    int | None,
    typer.Option(min=1, help="Lowest grade that binary measures count; 2 for TREC Deep Learning. (default: 1)"),
]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("eval", epilog='Example: rerank eval a.trec b.trec --qrels qrels.txt -m nDCG@10 -m "AP(rel=2)"')(
        evaluate
    )


def evaluate(
    runs: RunsArgument,
    qrels: QrelsOption,
    measures: Annotated[
        list[str], typer.Option("--measure", "-m", help="Name as ir_measures or trec_eval writes it; repeatable.")
    ] = ["nDCG@10"],  # noqa: B006 (typer reads the default, nobody writes to it)
    relevant: Relevant = None,
    per_query: Annotated[bool, typer.Option("--per-query", "-q", help="Also print every query's value.")] = False,
    by: Annotated[
        str,
        typer.Option(
            help="Also score groups: a field of the collection's queries, such as category, or a file of two columns, "
            "query and group."
        ),
    ] = "",
    form: FormatOption = "text",
) -> None:
    """Score runs. A judged query that a run has no list for scores 0 and is counted as missing."""
    from rerank.collections import judgments, query_field
    from rerank.evaluation import evaluate as score
    from rerank.evaluation import evaluate_by, evaluation_report, read_groups, with_groups
    from rerank.evaluation.grades import grade_note, overlap_note
    from rerank.io.run_files import read_run

    judged, lowest = judgments(qrels)
    lowest = lowest if relevant is None else relevant
    files = run_files(runs)
    read = [read_run(path) for path in files]
    results = [score(judged, run, measures, relevant=lowest) for run in read]
    report = evaluation_report(qrels, list(zip(map(str, files), results, strict=True)), per_query=per_query)
    if by:
        groups = read_groups(by) if Path(by).is_file() else query_field(qrels, by)
        found = [evaluate_by(judged, run, measures, groups, relevant=lowest) for run in read]
        report = with_groups(report, by, found)

    def show() -> None:
        names = results[0].measures
        _show(report, names, list(results[0].values) if per_query else [])
        if missing := [r["run"] for r in report["runs"] if r["missing"]]:
            note(f"Judged queries without a list, which score 0, in: {', '.join(missing)}")
        for told in filter(None, (overlap_note(judged, run) for run in read)):
            note(told)
        if per_query and results[0].overall:
            note(f"One value for the whole run, none for a query: {', '.join(results[0].overall)}")
        if relevant is None and (told := grade_note(judged, names)):
            note(told)

    emit(report, form=form, text=show, rows="runs")


def _show(report: Mapping[str, Any], names: Sequence[str], by_query: Sequence[str]) -> None:
    """Print a table of the runs, and one each of their queries and groups where they are wanted."""
    runs = report["runs"]
    table(["run", "queries", "missing", *names], [[r["run"], *_counted(r)] for r in runs])
    if by_query:
        keys = [(r["run"], q, values) for r in runs for q, values in r["per_query"].items()]
        table(["run", "query", *by_query], [[run, q, *map(number, v.values())] for run, q, v in keys])
    if "by" in report:
        rows = [[r["run"], group, *_counted(part)] for r in runs for group, part in r["groups"].items()]
        table(["run", Path(report["by"]).name, "queries", "missing", *names], rows)


def _counted(row: Mapping[str, Any]) -> list[object]:
    return [row["queries"], row["missing"], *map(number, row["scores"].values())]
