"""`eval`: scores of runs."""

from __future__ import annotations

from typing import Annotated

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
    form: FormatOption = "text",
) -> None:
    """Score runs. A judged query that a run has no list for scores 0 and is counted as missing."""
    from rerank.collections import judgments
    from rerank.evaluation import evaluate as score
    from rerank.evaluation import evaluation_report
    from rerank.evaluation.grades import grade_note
    from rerank.formats import read_run

    judged, lowest = judgments(qrels)
    files = run_files(runs)
    results = [
        score(judged, read_run(path), measures, relevant=lowest if relevant is None else relevant) for path in files
    ]
    report = evaluation_report(qrels, list(zip(map(str, files), results, strict=True)), per_query=per_query)

    def show() -> None:
        names, by_query = results[0].measures, list(results[0].values)
        rows = [[r["run"], r["queries"], r["missing"], *map(number, r["scores"].values())] for r in report["runs"]]
        table(["run", "queries", "missing", *names], rows)
        if per_query and by_query:
            keys = [(r["run"], q, values) for r in report["runs"] for q, values in r["per_query"].items()]
            table(["run", "query", *by_query], [[run, q, *map(number, v.values())] for run, q, v in keys])
        if missing := [r["run"] for r in report["runs"] if r["missing"]]:
            note(f"Judged queries without a list, which score 0, in: {', '.join(missing)}")
        if per_query and results[0].overall:
            note(f"One value for the whole run, none for a query: {', '.join(results[0].overall)}")
        if relevant is None and (told := grade_note(judged, names)):
            note(told)

    emit(report, form=form, text=show, rows="runs")
