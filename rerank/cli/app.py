"""The root command and its groups."""

from __future__ import annotations

from typing import Annotated

import typer

from rerank.cli import (
    bench,
    compare,
    data,
    demo,
    evaluate,
    folders,
    heads,
    inspect,
    label,
    leaderboard,
    merge,
    mmteb,
    prompts,
    qrels,
    robustness,
    run,
    tools,
    train,
    transfer,
)


def _dashed(name: str) -> str:
    """Flags may be typed with underscores, as other tools of the field write them."""
    return name.replace("_", "-")


app = typer.Typer(
    name="rerank",
    help="Rerank passages with large language models, and measure whether the ranking is really better.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={
        "help_option_names": ["-h", "--help"],
        "token_normalize_func": _dashed,
    },
    rich_markup_mode="rich",
)


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        typer.echo(f"listrank {version('listrank')}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    """Rerank passages with large language models, and measure whether the ranking is really better.

    Exit codes: 0 all well, 2 bad arguments, 3 missing prerequisite, 4 missing file or model, 5 invalid data,
    6 model, server or disk failure, 7 finished with more failures than allowed.
    """


_RANKING = (demo, run, robustness, heads)
_MEASURING = (evaluate, compare, bench, leaderboard, mmteb, qrels)
_TRAINING = (label, train, transfer, inspect, merge)
for module in (*_RANKING, *_MEASURING, *_TRAINING, folders, data, prompts, tools):
    module.register(app)
