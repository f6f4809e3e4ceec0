"""`leaderboard`: build a website of results and check submissions."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import Argument

from rerank.cli.app import command, command_group
from rerank.cli.options import (
    FormatOption,
    MeasuresOption,
    OptionalQrels,
    OptionGroup,
    QrelsOption,
    Relevant,
    SignificanceOptions,
    TableFormatOption,
)
from rerank.cli.output import emit_content, print_note
from rerank.collections import open_collection_qrels
from rerank.errors import MissingResourceError, UsageError
from rerank.evaluation.pairwise_decisions import check_significance_level
from rerank.io.reports import Grid, Line, make_grid
from rerank.types import Run

if TYPE_CHECKING:
    from rerank.leaderboard.board_config import BoardConfig

group = command_group("leaderboard", "Build a website that compares results, and check submissions.")


class BoardOptions(OptionGroup):
    """Options for the content of a leaderboard."""

    board: Annotated[list[Path] | None, "TOML file of a board; repeatable, one board per collection."] = None
    data: Annotated[Path | None, "Folder for relative paths in board files. (default: folder of the board)"] = None
    qrels: OptionalQrels = None
    queries: Annotated[str | None, "Texts of the queries: a topics file, or the selector of a collection."] = None
    texts: Annotated[str | None, "Selector of the collection whose document texts are shown."] = None
    title: Annotated[str | None, "Title of the page. (default: Leaderboard)"] = None
    measures: MeasuresOption = None
    baseline: Annotated[
        str | None, "Run with which all others are also compared; --test then also accepts dunnett, max-t."
    ] = None
    relevant: Relevant = None


@command("build", "rerank leaderboard build runs/ --qrels pydoc -m nDCG@10 -m RR --out site/", group=group)
def build(
    options: BoardOptions,
    significance: SignificanceOptions,
    *,
    runs: Annotated[
        list[Path] | None,
        Argument(
            metavar="RUNS...", help="Run folders, run files (with or without cards), or folders that contain them."
        ),
    ] = None,
    out: Annotated[Path, "Folder for the site; its page is index.html."],
    form: TableFormatOption = "text",
) -> None:
    """Build a website from run folders and run files: tables, significance, costs, and the rankings per query.

    Each run is shown with the first stage that retrieved its candidates. Costs that a run does not report are shown as
    unknown, not as zero.
    """
    from rerank.leaderboard.board import make_board
    from rerank.leaderboard.exports import board_records, board_table
    from rerank.leaderboard.site import check_site, write_site

    check_site(out)
    start = time.perf_counter()
    site_boards = [
        make_board(plan, home=home, data=options.data, runs=runs or ())
        for plan, home in _plans(options, significance, runs or ())
    ]
    page = write_site(site_boards, out, title=options.title or "Leaderboard")
    boards = [board.to_dict() for board in site_boards]
    content = {"site": str(page), "seconds": round(time.perf_counter() - start, 2), "boards": boards}
    standings = [(board, table) for board in site_boards for table in board.tables]
    emit_content(
        content,
        _parts(content),
        form,
        key="boards",
        papers=[board_table(board, table) for board, table in standings],
        rows=[row for board, table in standings for row in board_records(board, table)] if form == "csv" else None,
    )


def _plans(
    options: BoardOptions, significance: SignificanceOptions, runs: Sequence[Path]
) -> list[tuple[BoardConfig, Path]]:
    """Return the configuration of each requested board, with the folder to which the paths in it are relative."""
    from rerank.leaderboard.board_config import BoardConfig, read_board_config

    check_significance_level(significance.alpha)
    defaults = SignificanceOptions()
    requested = {"test": significance.selector, "correction": significance.correction, "alpha": significance.alpha}
    named = ("qrels", "queries", "texts", "relevant", "baseline")
    values = {
        **{name: value for name in named if (value := getattr(options, name))},
        **({"measures": tuple(options.measures)} if options.measures else {}),
        # omitted options do not override the values in a board file
        **{name: value for name, value in requested.items() if value != getattr(defaults, name)},
    }
    if not options.board:
        if not options.qrels or not runs:
            raise UsageError(
                "No runs are given" if options.qrels else "--qrels is missing",
                expected="runs and --qrels, or --board FILE",
                remedy="Run rerank leaderboard build --help for the options",
            )
        title = options.title or Path(options.qrels).name.removesuffix(".gz").removesuffix(".txt")
        return [(BoardConfig(title=title, **values), options.data or Path())]
    if len(options.board) > 1 and (runs or options.qrels):
        raise UsageError(
            f"{len(options.board)} boards are given together with {'--qrels' if options.qrels else runs[0]}",
            expected="a single --board with runs or --qrels, because runs and qrels belong to one collection",
        )
    return [(read_board_config(path).model_copy(update=values), path.parent) for path in options.board]


def _parts(content: dict[str, Any]) -> Iterator[Grid | str]:
    for board in content["boards"]:
        for standings in board["tables"]:
            rows = [[place, name, mean] for place, (name, mean) in enumerate(standings["means"].items(), 1)]
            yield make_grid(["#", "run", standings["measure"]], rows, title=board["title"])
            yield (
                f"{board['title']}, {standings['measure']}: {standings['significant']} of {standings['pairs']} pairs "
                f"differ significantly; {len(standings['tied'])} of {board['runs']} runs tie with the best"
            )
        yield from (f"note: {message}" for message in board["notes"])
    yield f"site, built in {content['seconds']} s: {content['site']}"


@command("open", "rerank leaderboard open site/", group=group)
def open_site(
    site: Annotated[Path, Argument(metavar="SITE", help="Folder written by `rerank leaderboard build`.")],
) -> None:
    """Open a leaderboard site in the browser."""
    page = site if site.is_file() else site / "index.html"
    if not page.is_file():
        raise MissingResourceError(
            f"The page {str(page)!r} does not exist", remedy="Build it: rerank leaderboard build ... --out"
        )
    typer.launch(page.resolve().as_uri())
    typer.echo(page.resolve().as_uri())


@command("check", "rerank leaderboard check card.toml --qrels qrels.txt", group=group)
def check(
    card: Annotated[
        Path, Argument(metavar="CARD.toml", help="Card of the submission; the run file is next to it or named in it.")
    ],
    qrels: QrelsOption,
    form: FormatOption = "text",
) -> None:
    """Check a submission (a card and its run file) and list all problems. The exit code is 5 if there are any."""
    from rerank.leaderboard.submission import check_submission, submission_error

    submission = check_submission(card, open_collection_qrels(qrels)[0])
    good = f"{card} can be added to the board: {submission.queries} queries, SHA-256 {submission.sha256}"
    lines = [Line(f"problem: {problem}") for problem in submission.problems] or [Line(good)]
    emit_content(submission.to_dict(), [*lines, *(f"note: {message}" for message in submission.notes)], form)
    if submission.problems:
        raise submission_error(submission)


@command(
    "export",
    "rerank leaderboard export runs/ --collection msmarco-passage/trec-dl-2019/judged --team me "
    "--repository https://example.org/code --out export/",
    group=group,
)
def export_runs(
    *,
    runs: Annotated[
        list[Path], Argument(metavar="RUNS...", help="Run folders, run files with cards, or folders that contain them.")
    ],
    out: Annotated[Path, "Folder for the exported files."],
    collection: Annotated[str, "Name of the test collection for TIREx, such as an ir_datasets id."],
    team: Annotated[str, "Name of the team for TIREx."],
    repository: Annotated[str, "Address of the repository with the code of the runs, for TIREx."],
    qrels: Annotated[str | None, "Judgments for mteb's scores: a file, or the selector of a collection."] = None,
    task: Annotated[str | None, "Task of mteb; also write its result files. Needs --qrels."] = None,
) -> None:
    """Export runs for other leaderboards: TIREx submissions in OUT/tirex and results of an mteb task in OUT/mteb."""
    from rerank.leaderboard.entries import find_runs
    from rerank.leaderboard.exports import check_folders, write_tirex
    from rerank.mmteb.evaluation import write_run_as_result

    if bool(task) != bool(qrels):
        raise UsageError(
            "--task is given without --qrels" if task else "--qrels is given without --task",
            expected="both options or neither",
        )
    judgments = open_collection_qrels(qrels)[0] if qrels else None
    entries, notes = find_runs(runs)
    for note in notes:
        print_note(f"note: {note}")
    check_folders(entry.name for entry in entries)
    for entry in entries:
        typer.echo(write_tirex(entry, out / "tirex", team=team, collection=collection, repository=repository))
        if task and judgments is not None:
            run = Run(entry.run.values(), name=entry.name)
            identity = {"lists": entry.digest, "card": entry.card.model_dump(exclude_defaults=True)}
            typer.echo(write_run_as_result(run, judgments, task, out / "mteb", identity=identity))
