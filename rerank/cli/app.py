"""The root command ``rerank`` and its command groups."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from rerank.cli import (
    anova,
    bench,
    calibrate,
    compare,
    data,
    demo,
    evaluate,
    folders,
    heads,
    inspect,
    label,
    leaderboard,
    mcp,
    merge,
    mteb,
    power,
    prompts,
    qrels,
    reproduce,
    robustness,
    run,
    serve,
    tools,
    train,
    transfer,
)
from rerank.errors import UsageError, expected_value_of_fault


class _RootGroup(TyperGroup):
    """The root command, which converts Typer's errors about arguments into errors of this package."""

    def make_context(self, *arguments: Any, **options: Any) -> Any:
        """Parse the arguments of the root command."""
        with _argument_errors():
            return super().make_context(*arguments, **options)

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names of the commands, sorted by group in the order of the help text."""
        panels = {name: getattr(command, "rich_help_panel", "") for name, command in self.commands.items()}
        return sorted(super().list_commands(ctx), key=lambda name: list(_GROUPS).index(panels[name]))

    def invoke(self, ctx: Any) -> Any:
        """Parse the arguments of a command and run it."""
        with _argument_errors():
            return super().invoke(ctx)


#: Typer's base class of errors about arguments, whose module differs between versions.
_ArgumentError: Any = typer.BadParameter.__base__


@contextmanager
def _argument_errors() -> Iterator[None]:
    """Convert Typer's errors about arguments into errors of this package."""
    try:
        yield
    except _ArgumentError as error:
        if not (message := error.format_message()):  # a group without a command, whose help has been printed
            raise
        command = error.ctx.command_path if error.ctx else "rerank"
        # Typer repeats the message of pydantic.
        found, _, reason = message.replace("Value error, ", "").partition(": Input should be ")
        raise UsageError(
            found, expected=expected_value_of_fault({"msg": reason}), remedy=f"Run: {command} -h"
        ) from error


def _normalize_command_line_flag(name: str) -> str:
    """Return the flag with dashes instead of underscores, so that both forms are accepted."""
    return name.replace("_", "-")


app = typer.Typer(
    name="rerank",
    cls=_RootGroup,
    help="Rerank passages with large language models and measure whether the ranking improves.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={
        "help_option_names": ["-h", "--help"],
        "token_normalize_func": _normalize_command_line_flag,
    },
    rich_markup_mode="rich",
)


def _print_version(requested: bool) -> None:
    if requested:
        from importlib.metadata import version

        typer.echo(f"listrank {version('listrank')}")
        raise typer.Exit


@app.callback()
def root_command(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Rerank passages with large language models and measure whether the ranking improves.

    Exit codes: 0 success, 2 invalid arguments, 3 missing prerequisite, 4 missing file or model, 5 invalid data,
    6 model, server or disk failure, 7 finished with more failures than allowed.
    """


#: The groups of commands in the help text, in this order.
_GROUPS = {
    "Rank": (demo, run, serve, mcp, robustness),
    "Evaluate": (evaluate, compare, power, anova, reproduce, calibrate),
    "Judge": (qrels,),
    "Train": (label, train, transfer, inspect, merge, heads),
    "Benchmark": (bench, leaderboard, mteb),
    "Tools": (folders, data, prompts, tools),
}
for title, modules in _GROUPS.items():
    for module in modules:
        module.register_cli_commands(app)
    registered: list[Any] = [*app.registered_commands, *app.registered_groups]
    for command in registered:
        if command.rich_help_panel not in _GROUPS:
            command.rich_help_panel = title
