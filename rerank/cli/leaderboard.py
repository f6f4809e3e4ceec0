"""`leaderboard`: build a website of results and check submissions."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rerank.cli.compare import SignificanceOptions
from rerank.cli.option_groups import expand_option_groups
from rerank.cli.output import FormatOption, TableFormatOption, emit_output, format_number_cell, print_note, print_table
from rerank.errors import MissingResourceError, UsageError

if TYPE_CHECKING:
    from rerank.leaderboard.board_config import BoardConfig

_BUILD = "Example: rerank leaderboard build runs/ --qrels pydoc -m nDCG@10 -m RR --out site/"

_EXPORT = (
    "Example: rerank leaderboard export runs/ --collection msmarco-passage/trec-dl-2019/judged --team me "
    "--repository https://example.org/code --out export/"
)


def register_cli_commands(app: typer.Typer) -> None:
    """Add the command group ``leaderboard``."""
    group = typer.Typer(help="Build a website that compares results, and check submissions.", no_args_is_help=True)
    group.command("build", epilog=_BUILD)(build_leaderboard_command)
    group.command("open", epilog="Example: rerank leaderboard open site/")(open_leaderboard_command)
    group.command("check", epilog="Example: rerank leaderboard check card.toml --qrels qrels.txt")(
        check_submission_command
    )
    group.command("export", epilog=_EXPORT)(export_runs_command)
    app.add_typer(group, name="leaderboard")


@dataclass(frozen=True, kw_only=True)
class BoardOptions:
    """Options for the content of a leaderboard."""

    board: Annotated[
        list[Path] | None, typer.Option("--board", help="TOML file of a board; repeatable, one board per collection.")
    ] = None
    data: Annotated[
        Path | None,
        typer.Option("--data", help="Folder for relative paths in board files. (default: folder of the board)"),
    ] = None
    qrels: Annotated[
        str | None, typer.Option("--qrels", help="Relevance judgments: a file, or the selector of a collection.")
    ] = None
    queries: Annotated[
        str | None,
        typer.Option("--queries", help="Texts of the queries: a topics file, or the selector of a collection."),
    ] = None
    texts: Annotated[
        str | None, typer.Option("--texts", help="Selector of the collection whose document texts are shown.")
    ] = None
    title: Annotated[str | None, typer.Option("--title", help="Title of the page. (default: Leaderboard)")] = None
    measures: Annotated[
        list[str] | None, typer.Option("--measure", "-m", help="Measure; repeatable. (default: nDCG@10)")
    ] = None
    baseline: Annotated[
        str | None,
        typer.Option(help="Run with which all others are also compared; --test then also accepts dunnett, max-t."),
    ] = None
    relevant: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Lowest grade that binary measures count as relevant; 2 for TREC Deep Learning. (default: 1)",
        ),
    ] = None


@expand_option_groups
def build_leaderboard_command(
    options: BoardOptions,
    significance: SignificanceOptions,
    *,
    runs: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="RUNS...", help="Run folders, run files (with or without cards), or folders that contain them."
        ),
    ] = None,
    out: Annotated[Path, typer.Option("--out", help="Folder for the site; its page is index.html.")],
    form: TableFormatOption = "text",
) -> None:
    """Build a website from run folders and run files: tables, significance, costs, and the rankings per query.

    Each run is shown with the first stage that retrieved its candidates. Costs that a run does not report are shown as
    unknown, not as zero.
    """
    from rerank.leaderboard.board import make_board
    from rerank.leaderboard.site import check_site, write_site
    from rerank.leaderboard.table_exports import board_records, board_table

    check_site(out)
    start = time.perf_counter()
    site_boards = [
        make_board(plan, home=home, data=options.data, runs=runs or ())
        for plan, home in _board_plans_of_command_line(options, significance, runs or ())
    ]
    page = write_site(site_boards, out, title=options.title or "Leaderboard")
    boards = [board.to_dict() for board in site_boards]
    content = {"site": str(page), "seconds": round(time.perf_counter() - start, 2), "boards": boards}
    standings = [(board, table) for board in site_boards for table in board.tables]
    emit_output(
        content,
        form=form,
        text=lambda: _print_leaderboard(content),
        rows="boards",
        reports=[board_table(board, table) for board, table in standings],
        records=[row for board, table in standings for row in board_records(board, table)] if form == "csv" else None,
    )


def open_leaderboard_command(
    site: Annotated[Path, typer.Argument(metavar="SITE", help="Folder written by `rerank leaderboard build`.")],
) -> None:
    """Open a leaderboard site in the browser."""
    page = site if site.is_file() else site / "index.html"
    if not page.is_file():
        raise MissingResourceError(
            f"The page {str(page)!r} does not exist", remedy="Build it: rerank leaderboard build ... --out"
        )
    typer.launch(page.resolve().as_uri())
    typer.echo(page.resolve().as_uri())


def check_submission_command(
    card: Annotated[
        Path,
        typer.Argument(metavar="CARD.toml", help="Card of the submission; the run file is next to it or named in it."),
    ],
    qrels: Annotated[
        str, typer.Option("--qrels", help="Relevance judgments: a file, or the selector of a collection.")
    ],
    form: FormatOption = "text",
) -> None:
    """Check a submission (a card and its run file) and list all problems. The exit code is 5 if there are any."""
    from rerank.collections import open_collection_qrels
    from rerank.leaderboard.submission import check_submission, submission_error

    submission = check_submission(card, open_collection_qrels(qrels)[0])

    def show() -> None:
        if submission.problems:
            for problem in submission.problems:
                typer.echo(f"problem: {problem}")
        else:
            typer.echo(f"{card} can be added to the board: {submission.queries} queries, SHA-256 {submission.sha256}")
        for message in submission.notes:
            print_note(f"note: {message}")

    emit_output(submission.to_dict(), form=form, text=show)
    if submission.problems:
        raise submission_error(submission)


def export_runs_command(
    *,
    runs: Annotated[
        list[Path],
        typer.Argument(metavar="RUNS...", help="Run folders, run files with cards, or folders that contain them."),
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder for the exported files.")],
    collection: Annotated[str, typer.Option(help="Name of the test collection for TIREx, such as an ir_datasets id.")],
    team: Annotated[str, typer.Option(help="Name of the team for TIREx.")],
    repository: Annotated[str, typer.Option(help="Address of the repository with the code of the runs, for TIREx.")],
    qrels: Annotated[
        str | None,
        typer.Option("--qrels", help="Judgments for mteb's scores: a file, or the selector of a collection."),
    ] = None,
    task: Annotated[str | None, typer.Option(help="Task of mteb; also write its result files. Needs --qrels.")] = None,
) -> None:
    """Export runs for other leaderboards: TIREx submissions in OUT/tirex and results of an mteb task in OUT/mteb."""
    from rerank.collections import open_collection_qrels
    from rerank.leaderboard.entries import find_board_entries
    from rerank.leaderboard.tirex_export import check_folders_of_exported_runs, write_tirex_submission
    from rerank.mmteb.run_results import write_run_as_mteb_result
    from rerank.types import Run

    if bool(task) != bool(qrels):
        raise UsageError(
            "--task is given without --qrels" if task else "--qrels is given without --task",
            expected="both options or neither",
        )
    judgments = open_collection_qrels(qrels)[0] if qrels else None
    entries, notes = find_board_entries(runs)
    for note in notes:
        print_note(f"note: {note}")
    check_folders_of_exported_runs(entry.name for entry in entries)
    for entry in entries:
        typer.echo(
            write_tirex_submission(entry, out / "tirex", team=team, collection=collection, repository=repository)
        )
        if task and judgments is not None:
            run = Run(entry.run.values(), name=entry.name)
            identity = {"lists": entry.digest, "card": entry.card.model_dump(exclude_defaults=True)}
            typer.echo(write_run_as_mteb_result(run, judgments, task, out / "mteb", identity=identity))


def _board_plans_of_command_line(
    options: BoardOptions, significance: SignificanceOptions, runs: Sequence[Path]
) -> list[tuple[BoardConfig, Path]]:
    """Return the configuration of each requested board, with the folder to which the paths in it are relative."""
    from rerank.evaluation.pairwise_decisions import check_significance_level
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
        if options.qrels is None or not runs:
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


def _print_leaderboard(content: dict[str, Any]) -> None:
    for board in content["boards"]:
        for standings in board["tables"]:
            tied = len(standings["tied"])
            rows = [
                [place, name, format_number_cell(mean)]
                for place, (name, mean) in enumerate(standings["means"].items(), 1)
            ]
            print_table(["#", "run", standings["measure"]], rows, title=board["title"])
            print_note(
                f"{board['title']}, {standings['measure']}: {standings['significant']} of {standings['pairs']} pairs "
                f"differ significantly; {tied} of {board['runs']} runs tie with the best"
            )
        for message in board["notes"]:
            print_note(f"note: {message}")
    print_note(f"site, built in {content['seconds']} s: {content['site']}")
