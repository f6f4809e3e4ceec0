"""`eval`: score runs with relevance judgments. `calibrate`: fit a calibration of scores."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from typer import Argument, Option

from rerank.cli.app import command
from rerank.cli.options import (
    FormatOption,
    NamesOption,
    OptionGroup,
    QrelsOption,
    Relevant,
    RunsArgument,
    TableFormatOption,
)
from rerank.cli.output import emit_content, print_note
from rerank.cli.run_files import expand_folders, read_named_runs
from rerank.collections import open_collection_qrels, read_query_field
from rerank.errors import UsageError
from rerank.evaluation import Scores
from rerank.evaluation.measures import evaluation_overlap_note, measure_grade_note, relevance_threshold_note
from rerank.io.reports import Grid, make_grid, value_with_interval


class DetailOptions(OptionGroup):
    """Options for details that are shown in addition to the scores over all queries."""

    per_query: Annotated[bool, Option("--per-query", "-q", help="Also print the scores per query.")] = False
    by: Annotated[
        str,
        "Also score groups of queries: a field of the collection's queries, such as category, or a file with "
        "the columns query and group.",
    ] = ""
    bounds: Annotated[
        bool | None,
        Option(
            "--bounds/--no-bounds",
            help="Show the fraction of judged documents, and the range of each measure if the run's unjudged documents "
            "were judged. (default: for measures with few judged documents)",
        ),
    ] = None


@command("eval", 'rerank eval a.trec b.trec --qrels qrels.txt -m nDCG@10 -m "AP(rel=2)"')
def evaluate(
    details: DetailOptions,
    *,
    runs: RunsArgument,
    qrels: QrelsOption,
    measures: Annotated[
        list[str], Option("--measure", "-m", help="Measure, named as in ir_measures or trec_eval; repeatable.")
    ] = ["nDCG@10"],  # noqa: B006 (typer only reads the default)
    relevant: Relevant = None,
    names: NamesOption = None,
    form: TableFormatOption = "text",
) -> None:
    """Score runs. A judged query without a ranking scores 0 and is counted as missing.

    With --format csv, --by and --per-query print one line per run and group, or per run and query.
    """
    from rerank import evaluation

    if (details.by or details.per_query) and form in ("latex", "markdown", "html"):
        raise UsageError(
            f"--format {form} cannot be used with {'--by' if details.by else '--per-query'}",
            expected="text, json, jsonl or csv",
        )
    judged, lowest = open_collection_qrels(qrels)
    lowest = relevant or lowest
    files = expand_folders(runs)
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
        from_file = Path(details.by).is_file()
        groups = evaluation.read_query_groups(details.by) if from_file else read_query_field(qrels, details.by)
        grouped = [evaluation.evaluate_by_group(judged, run, measures, groups, relevant=lowest) for run in opened]
        report = evaluation.add_groups_to_evaluation_report(report, details.by, grouped)

    notes = [evaluation_overlap_note(judged, run) for run in opened]
    notes.append("" if relevant is not None else measure_grade_note(judged, results[0].measures))
    notes.append(relevance_threshold_note(judged, results[0].measures))
    emit_content(
        report,
        _parts(report, results[0], columns, details, notes),
        form,
        key="runs",
        papers=[evaluation.table_of_evaluation(qrels, results, columns=columns)],
        rows=evaluation.evaluation_records(report, covered) if form == "csv" else None,
    )


def _parts(
    report: Mapping[str, Any],
    scores: Scores,
    columns: Sequence[Mapping[str, str]],
    details: DetailOptions,
    notes: Sequence[str],
) -> Iterator[Grid | str]:
    """Yield a table of the runs and, if requested, tables of the queries and of the query groups; then the notes."""
    runs, names = report["runs"], scores.measures
    shown = sorted(zip(runs, columns, strict=True), key=lambda pair: -next(iter(pair[0]["scores"].values())))
    heads = ["queries", "missing", *names]
    cells = [[row["name"], row["queries"], row["missing"], *row["scores"].values()] for row, _ in shown]
    judged = [list(more.values()) for _, more in shown]
    if columns[0] and sys.stdout.isatty():  # a second table, because one with all columns would be too wide
        yield make_grid(["run", *heads], cells)
        yield make_grid(["run", *columns[0]], [[row[0], *more] for row, more in zip(cells, judged, strict=True)])
    else:
        rows = [row + more for row, more in zip(cells, judged, strict=True)]
        yield make_grid(["run", *heads, *columns[0]], rows, further=details.per_query or "by" in report)
    if details.per_query and scores.values:
        rows = [[r["name"], query, *values.values()] for r in runs for query, values in r["per_query"].items()]
        yield make_grid(["run", "query", *scores.values], rows)
    if "by" in report:
        rows = [
            [r["name"], group, part["queries"], part["missing"], *part["scores"].values()]
            for r in runs
            for group, part in r["groups"].items()
        ]
        yield make_grid(["run", Path(report["by"]).name, *heads], rows, further=details.per_query)
    if missing := [r["name"] for r in runs if r["missing"]]:
        yield f"Runs with judged queries that have no ranking and score 0: {', '.join(missing)}"
    if details.per_query and scores.overall:
        yield f"Measures without per-query values: {', '.join(scores.overall)}"
    bounded = runs[0]["bounds"]
    if columns[0] and details.bounds is None:
        yield "Few documents are judged: judged@k is their fraction; --no-bounds omits the added columns"
    if bounded:
        yield "Bounds are the lowest and highest values possible if the unjudged documents of a run were judged"
    if details.bounds and (without := [name for name in runs[0]["scores"] if name not in bounded]):
        yield f"No bounds are computed for {', '.join(without)}"
    yield from filter(None, notes)


@command("calibrate", "rerank calibrate runs/FOLDER --complete --out calibration.json")
def calibrate(
    runs: Annotated[
        list[Path], Argument(metavar="RUN...", help="Folders of finished runs with the same ranker and first stage.")
    ],
    out: Annotated[Path, "Calibration file to write; a reliability diagram (svg) is written next to it."],
    qrels: Annotated[
        str | None, "Relevance judgments: a file, or the selector of a collection. (default: the folder's own)"
    ] = None,
    relevant: Annotated[
        int | None,
        Option(
            min=1,
            help="Lowest grade that counts as relevant in the runs and in test files; test collections have their own. "
            "(default: set by the judgments)",
        ),
    ] = None,
    test: Annotated[
        list[str] | None,
        Option(metavar="RUN:QRELS", help="Run on other queries, used only to test the calibration; repeatable."),
    ] = None,
    complete: Annotated[
        bool, "Count unjudged documents as not relevant, for qrels that list only relevant documents."
    ] = False,
    form: FormatOption = "text",
) -> None:
    """Fit a calibration that converts the scores of a run to probabilities of relevance, and test it.

    The test uses held-out queries. Scores that depend on the other documents of a list, such as attention scores, need
    one run folder per depth.
    """
    from rerank.experiment.calibrate import fit_to_runs

    report = fit_to_runs(runs, out, qrels=qrels, relevant=relevant, tests=test or (), complete=complete)
    emit_content(report, _calibration_parts(report), form, key="rows")
    print_note(f"calibration: {report['file']}")
    print_note(f"reliability diagram: {report['diagram']}")


def _calibration_parts(report: Mapping[str, Any]) -> Iterator[Grid | str]:
    measures = ("ece", "brier", "brier_skill", "auc")

    def cells(row: Mapping[str, Any], name: str, count: str) -> list[object]:
        collection = row["collection"] + (", held-out" if row["held_out"] else "")
        scores = (value_with_interval(row[measure], row["intervals"].get(measure)) for measure in measures)
        return [name, collection, row["depth"], row["queries"], row[count], *scores, row["ece_by_chance"]]

    # if the judge has scores, the fits by rank are used only for documents without a judge score
    base = report["fit"].partition("+")[0]
    documents, lists = ([row for row in report[part] if row["fit"].startswith(base)] for part in ("rows", "answerable"))
    rows = [cells(row, row["fit"], "documents") for row in documents]
    rows += [cells(row, f"answerable, {row['fit']}", "lists") for row in lists]
    heads = ["fit", "collection", "depth", "queries", "items", *measures, "ece by chance"]
    yield make_grid(heads, rows, digits=3)
    omitted = f"{report['unjudged']} documents without a judgment are omitted. " if report["unjudged"] else ""
    yield f"{omitted}Intervals: 95%, over queries."
    yield f"ece: {report['binning']}. ece by chance: the ece that perfect probabilities would have here."
