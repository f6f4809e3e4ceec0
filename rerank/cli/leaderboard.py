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
from rerank.cli.output import FormatOption, emit_output, format_number_cell, print_note, print_table
from rerank.errors import MissingResourceError, UsageError

if TYPE_CHECKING:
    from rerank.leaderboard.board_config import BoardConfig

_BUILD = "Example: rerank leaderboard build runs/ --qrels pydoc -m nDCG@10 -m RR --out site/"


def register(app: typer.Typer) -> None:
    """Add the command group."""
    group = typer.Typer(help="Build a website that compares results, and check submissions.", no_args_is_help=True)
    group.command("build", epilog=_BUILD)(build_leaderboard_command)
    group.command("open", epilog="Example: rerank leaderboard open site/")(open_leaderboard_command)
    group.command("check", epilog="Example: rerank leaderboard check card.toml --qrels qrels.txt")(
        check_submission_command
    )
    app.add_typer(group, name="leaderboard")


@dataclass(frozen=True, kw_only=True)
class BoardOptions:
    """The content of a board."""

    board: Annotated[
        list[Path] | None, typer.Option("--board", help="TOML file of a board; repeatable, one per collection.")
    ] = None
    data: Annotated[
        Path | None, typer.Option("--data", help="Folder of the files of boards. (default: the folder of each board)")
    ] = None
    qrels: Annotated[
        str | None, typer.Option("--qrels", help="Relevance judgments: a file, or the selector of a collection.")
    ] = None
    queries: Annotated[
        str | None, typer.Option("--queries", help="Texts of the queries: a topics file, or a selector.")
    ] = None
    texts: Annotated[
        str | None, typer.Option("--texts", help="Selector of the collection whose document texts are shown.")
    ] = None
    title: Annotated[str | None, typer.Option("--title", help="Title of the page. (default: Leaderboard)")] = None
    measures: Annotated[
        list[str] | None, typer.Option("--measure", "-m", help="Measure; repeatable. (default: nDCG@10)")
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
            metavar="RUNS...", help="Run folders, run files (with or without a card beside), or folders of these."
        ),
    ] = None,
    out: Annotated[Path, typer.Option("--out", help="Folder of the site; open index.html in it.")],
    form: FormatOption = "text",
) -> None:
    """Build a website from run folders and run files: tables, significance, costs, and the rankings per query.

    Each run is shown with the first stage of its candidates. Costs that a run does not report are unknown, not zero.
    """
    from rerank.leaderboard.board import make_board
    from rerank.leaderboard.site import check_site, write_site

    check_site(out)
    start = time.perf_counter()
    site_boards = [
        make_board(plan, home=home, data=options.data, runs=runs or ())
        for plan, home in _requested_board_plans(options, significance, runs or ())
    ]
    page = write_site(site_boards, out, title=options.title or "Leaderboard")
    boards = [board.to_dict() for board in site_boards]
    content = {"site": str(page), "seconds": round(time.perf_counter() - start, 2), "boards": boards}
    emit_output(content, form=form, text=lambda: _print_leaderboard(content), rows="boards")


def open_leaderboard_command(
    site: Annotated[Path, typer.Argument(metavar="SITE", help="Folder written by `rerank leaderboard build`.")],
) -> None:
    """Open a site in the browser."""
    page = site if site.is_file() else site / "index.html"
    if not page.is_file():
        raise MissingResourceError(
            f"The page {str(page)!r} does not exist", remedy="Build it: rerank leaderboard build ... --out"
        )
    typer.launch(page.resolve().as_uri())
    typer.echo(page.resolve().as_uri())


def check_submission_command(
    card: Annotated[
        Path, typer.Argument(metavar="CARD.toml", help="Card of the submission; its run file is beside it.")
    ],
    qrels: Annotated[
        str, typer.Option("--qrels", help="Relevance judgments: a file, or the selector of a collection.")
    ],
    form: FormatOption = "text",
) -> None:
    """Check a submission (a card and its run file) and list all problems. Exit code 5 if there are any."""
    from rerank.collections import open_judgments
    from rerank.leaderboard.submission import check_submission, submission_error

    submission = check_submission(card, open_judgments(qrels)[0])

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


def _requested_board_plans(
    options: BoardOptions, significance: SignificanceOptions, runs: Sequence[Path]
) -> list[tuple[BoardConfig, Path]]:
    """Return the requested boards, each with the folder that its paths are relative to."""
    from rerank.evaluation.pairwise_decisions import check_significance_level
    from rerank.leaderboard.board_config import BoardConfig, read_board_config

    check_significance_level(significance.alpha)
    defaults = SignificanceOptions()
    requested = {"test": significance.selector, "correction": significance.correction, "alpha": significance.alpha}
    values = {
        **{name: value for name in ("qrels", "queries", "texts", "relevant") if (value := getattr(options, name))},
        **({"measures": tuple(options.measures)} if options.measures else {}),
        # Omitted options do not replace those of the board file.
        **{name: value for name, value in requested.items() if value != getattr(defaults, name)},
    }
    if not options.board:
        if options.qrels is None or not runs:
            raise UsageError(
                "No runs" if options.qrels else "No --qrels",
                expected="runs and --qrels, or --board FILE",
                remedy="Run rerank leaderboard build --help for the options",
            )
        title = options.title or Path(options.qrels).name.removesuffix(".gz").removesuffix(".txt")
        return [(BoardConfig(title=title, **values), options.data or Path())]
    if len(options.board) > 1 and (runs or options.qrels):
        raise UsageError(
            f"{len(options.board)} boards with {'--qrels' if options.qrels else runs[0]}",
            expected="a single --board with runs or --qrels, since those belong to one collection",
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
