"""Wrong arguments of all commands: one line on stderr in the form of all errors, and exit code 2."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from typer.main import get_command

from rerank.cli.app import app
from tests.cli.conftest import Cli


def command_paths(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield the words of each command."""
    children = getattr(command, "commands", {})
    for name, child in children.items():
        yield from command_paths(child, (*path, name))
    if not children:
        yield path


COMMANDS = [(*path, "--no-such-option") for path in command_paths(get_command(app))]


def test_there_are_commands_to_check() -> None:
    assert len(COMMANDS) > 30


@pytest.mark.parametrize(
    "arguments",
    [
        *COMMANDS,
        ("no-such-command",),
        ("--no-such-option",),
        ("qrels", "no-such-command"),
        ("robustness", "--probe", "no-such-value"),
        ("run", "--format", "no-such-value"),
        ("eval", "--format", "no-such-value"),
        ("serve", "--port", "no-such-value"),
        ("serve", "--max-documents", "no-such-value"),
        ("run", "--depth", "no-such-value"),
    ],
)
def test_the_message_is_one_line_that_names_the_argument(cli: Cli, arguments: tuple[str, ...]) -> None:
    done = cli(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert arguments[-2 if arguments[-1] == "no-such-value" else -1] in done.stderr


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("eval",), "RUN"),
        (("serve", "--max-documents", "0"), "at least 1"),
        (("serve", "--port", "x"), "a valid integer"),
    ],
)
def test_what_is_expected_is_said(cli: Cli, arguments: tuple[str, ...], named: str) -> None:
    done = cli(*arguments)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert named in done.stderr


@pytest.mark.parametrize("arguments", [(), ("qrels",)])
def test_a_group_without_a_command_shows_its_help(cli: Cli, arguments: tuple[str, ...]) -> None:
    done = cli(*arguments)
    assert done.returncode == 2
    assert "Usage:" in done.stdout + done.stderr
    assert "error:" not in done.stderr
