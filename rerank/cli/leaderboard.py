"""`leaderboard`: results side by side as a site, and whether a submission can go on it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rerank.cli.compare import Tested
from rerank.cli.groups import unfolded
from rerank.cli.output import FormatOption, emit, note, number, table
from rerank.errors import MissingResourceError, UsageError

if TYPE_CHECKING:
    from rerank.leaderboard.plan import Plan

_BUILD = "Example: rerank leaderboard build runs/ --qrels pydoc -m nDCG@10 -m RR --out site/"


def register(app: typer.Typer) -> None:
    """Add the command group."""
    group = typer.Typer(help="Results side by side, as a site for the browser.", no_args_is_help=True)
    group.command("build", epilog=_BUILD)(build)
    group.command("open", epilog="Example: rerank leaderboard open site/")(open_site)
    group.command("check", epilog="Example: rerank leaderboard check card.toml --qrels qrels.txt")(check)
    app.add_typer(group, name="leaderboard")


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a board is made of."""

    board: Annotated[
        list[Path] | None, typer.Option("--board", help="A board as a TOML file; repeatable, one a collection.")
    ] = None
    data: Annotated[
        Path | None, typer.Option("--data", help="Where a board's files are looked for. (default: its own folder)")
    ] = None
    qrels: Annotated[str | None, typer.Option("--qrels", help="Judgments: a file, or a collection's selector.")] = None
    queries: Annotated[
        str | None, typer.Option("--queries", help="Texts of the queries: a file of topics, or a selector.")
    ] = None
    texts: Annotated[
        str | None, typer.Option("--texts", help="Selector of the collection whose documents are shown, not only ids.")
    ] = None
    title: Annotated[str | None, typer.Option("--title", help="Of the page. (default: Leaderboard)")] = None
    measures: Annotated[
        list[str] | None, typer.Option("--measure", "-m", help="A measure; repeatable. (default: nDCG@10)")
    ] = None
    relevant: Annotated[
        int | None,
        typer.Option(min=1, help="Lowest grade that binary measures count; 2 for TREC Deep Learning. (default: 1)"),
    ] = None


@unfolded
def build(
    asked: Asked,
    tested: Tested,
    *,
    runs: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="RUNS...", help="Run folders, run files (a card may stand beside), or folders of these."
        ),
    ] = None,
    out: Annotated[Path, typer.Option("--out", help="Folder of the site; SITE/index.html opens from the file system.")],
    form: FormatOption = "text",
) -> None:
    """Build a site from run folders and run files: tables, significance, costs, and every query's lists.

    Every run is shown with the first stage whose candidates it ranks. What a run does not say of itself is unknown,
    not zero.
    """
    from rerank.leaderboard.board import make_board
    from rerank.leaderboard.site import check_site, write_site

    check_site(out)
    began = time.perf_counter()
    made = [
        make_board(plan, home=home, data=asked.data, runs=runs or ())
        for plan, home in _plans(asked, tested, runs or ())
    ]
    page = write_site(made, out, title=asked.title or "Leaderboard")
    boards = [board.to_dict() for board in made]
    content = {"site": str(page), "seconds": round(time.perf_counter() - began, 2), "boards": boards}
    emit(content, form=form, text=lambda: _show(content), rows="boards")


def open_site(
    site: Annotated[Path, typer.Argument(metavar="SITE", help="The folder that `rerank leaderboard build` filled.")],
) -> None:
    """Open a site in the browser."""
    page = site if site.is_file() else site / "index.html"
    if not page.is_file():
        raise MissingResourceError(f"There is no {str(page)!r}", remedy="Build it: rerank leaderboard build ... --out")
    typer.launch(page.resolve().as_uri())
    typer.echo(page.resolve().as_uri())


def check(
    card: Annotated[Path, typer.Argument(metavar="CARD.toml", help="The card; its run file stands beside it.")],
    qrels: Annotated[str, typer.Option("--qrels", help="Judgments: a file, or a collection's selector.")],
    form: FormatOption = "text",
) -> None:
    """Check a submission, a card and its run file, and say everything that is wrong. Exit code 5 if anything is."""
    from rerank.collections import judgments
    from rerank.leaderboard.submission import check_submission, refusal

    found = check_submission(card, judgments(qrels)[0])

    def show() -> None:
        if found.problems:
            for problem in found.problems:
                typer.echo(f"problem: {problem}")
        else:
            typer.echo(f"{card} can go on the board: {found.queries} queries, SHA-256 {found.sha256}")
        for told in found.notes:
            note(f"note: {told}")

    emit(found.to_dict(), form=form, text=show)
    if found.problems:
        raise refusal(found)


def _plans(asked: Asked, tested: Tested, runs: Sequence[Path]) -> list[tuple[Plan, Path]]:
    """The boards that are asked for, and the folder that each one's paths are seen from."""
    from rerank.evaluation.pairs import check_level
    from rerank.leaderboard.plan import Plan, read_plan

    check_level(tested.alpha)
    usual, wanted = Tested(), {"test": tested.selector, "correction": tested.correction, "alpha": tested.alpha}
    given = {
        **{name: value for name in ("qrels", "queries", "texts", "relevant") if (value := getattr(asked, name))},
        **({"measures": tuple(asked.measures)} if asked.measures else {}),
        **{name: value for name, value in wanted.items() if value != getattr(usual, name)},  # else a board's own stand
    }
    if not asked.board:
        if asked.qrels is None or not runs:
            raise UsageError(
                "No runs" if asked.qrels else "No --qrels",
                expected="runs and judgments, or --board FILE",
                remedy="See rerank leaderboard build --help",
            )
        title = asked.title or Path(asked.qrels).name.removesuffix(".gz").removesuffix(".txt")
        return [(Plan(title=title, **given), asked.data or Path())]
    if len(asked.board) > 1 and (runs or asked.qrels):
        raise UsageError(
            f"{len(asked.board)} boards with {'--qrels' if asked.qrels else runs[0]}",
            expected="one --board beside runs or judgments, since those belong to one collection",
        )
    return [(read_plan(path).model_copy(update=given), path.parent) for path in asked.board]


def _show(content: dict[str, Any]) -> None:
    for board in content["boards"]:
        for standings in board["tables"]:
            tied = len(standings["tied"])
            rows = [[place, name, number(mean)] for place, (name, mean) in enumerate(standings["means"].items(), 1)]
            table(["#", "run", standings["measure"]], rows, title=board["title"])
            note(
                f"{board['title']}, {standings['measure']}: {standings['significant']} of {standings['pairs']} pairs "
                f"differ significantly; {tied} of {board['runs']} runs tie with the best"
            )
        for told in board["notes"]:
            note(f"note: {told}")
    note(f"Written in {content['seconds']} s: {content['site']}")
