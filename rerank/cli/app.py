"""The root command ``rerank``, and the function with which modules add their commands to it."""

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from typer.core import TyperCommand, TyperGroup

from rerank.cli.options import expand_groups
from rerank.errors import MissingResourceError, UsageError, ensure, error_repr, expected_value_of_fault
from rerank.selector import check_value

#: The commands in the help text, in this order, by panel.
_PANELS = {
    "Rank": "demo run retrieve rerank serve mcp robustness",
    "Evaluate": "eval compare power worth anova reproduce calibrate",
    "Judge": "qrels",
    "Train": "train transfer inspect merge label heads",
    "Benchmark": "bench leaderboard mteb",
    "Tools": "replay verify parse collections methods doctor models prompts cache",
}
_PANEL_OF = {name: panel for panel, names in _PANELS.items() for name in names.split()}
Function = TypeVar("Function", bound=Callable[..., None])


class _RootGroup(TyperGroup):
    """The root command, which converts Typer's errors about arguments into errors of this package."""

    def make_context(self, *arguments: Any, **options: Any) -> Any:
        with _argument_errors():
            return super().make_context(*arguments, **options)

    def list_commands(self, ctx: Any) -> list[str]:
        return sorted(super().list_commands(ctx), key=list(_PANEL_OF).index)

    def invoke(self, ctx: Any) -> Any:
        with _argument_errors():
            return super().invoke(ctx)


class _Command(TyperCommand):
    """A command that refuses values that no option can mean, whatever its type."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        given, _, _ = self.make_parser(ctx).parse_args(args=list(args))
        rest = super().parse_args(ctx, args)
        for parameter in () if ctx.resilient_parsing else self.params:
            name = str(parameter.name)
            shown = max(parameter.opts, key=len) if parameter.param_type_name == "option" else parameter.metavar or name
            for text, value in zip(_as_list(given.get(name)), _as_list(ctx.params.get(name)), strict=False):
                ensure(text != "" or parameter.default == "", f"{shown} is empty", expected="a value")
                check_value(shown, value)
                if isinstance(value, Path):
                    _check_path(shown, value)
        return rest


def _as_list(value: Any) -> list[Any]:
    return [*value] if isinstance(value, list | tuple) else [value]


def _check_path(shown: str, path: Path) -> None:
    try:
        os.stat(path)
    except OSError as error:
        ensure(
            error.errno not in (errno.ENAMETOOLONG, errno.ELOOP),
            f"{shown} is {error_repr(str(path))}: {error.strerror}",
            expected="a path at which a file can exist",
            error=MissingResourceError,
        )


#: Typer's base class of errors about arguments, whose module differs between versions.
_ArgumentError: Any = typer.BadParameter.__base__


@contextmanager
def _argument_errors() -> Iterator[None]:
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


app = typer.Typer(
    name="rerank",
    cls=_RootGroup,
    help="Rerank passages with large language models and measure whether the ranking improves.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={
        "help_option_names": ["-h", "--help"],
        # flags may be written with dashes or underscores
        "token_normalize_func": lambda name: name.replace("_", "-"),
    },
    rich_markup_mode="rich",
)


def command(name: str, example: str = "", *, group: typer.Typer = app) -> Callable[[Function], Function]:
    """Return a decorator that adds a function to a group of commands. Its option groups become options."""

    def add(function: Function) -> Function:
        epilog = f"Example: {example}" if example else None
        panel: Any = _PANEL_OF[name] if group is app else None
        group.command(name, cls=_Command, epilog=epilog, rich_help_panel=panel)(expand_groups(function))
        return function

    return add


def command_group(name: str, summary: str, *, parent: typer.Typer = app, **options: Any) -> typer.Typer:
    """Add a group of commands and return it. Without ``options`` it prints its help if no command follows."""
    group = typer.Typer(help=summary, **options or {"no_args_is_help": True})
    panel: Any = _PANEL_OF[name] if parent is app else None
    parent.add_typer(group, name=name, rich_help_panel=panel)
    return group


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
    6 model, server or disk failure, 7 finished with more failures than allowed, 8 `compare --fail-if` failed.
    """
