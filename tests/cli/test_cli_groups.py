"""Dataclasses as groups of options."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Annotated

import typer
from typer.testing import CliRunner

from rerank.cli.options import expand_groups


@dataclass(frozen=True, kw_only=True)
class Size:
    """Two options, one of them required."""

    width: Annotated[int, typer.Option(min=1, help="How wide.")]
    height: Annotated[int, typer.Option()] = 2


@expand_groups
def draw(size: Size, name: str = "a", *, loud: bool = False) -> None:
    """Draw something."""
    typer.echo(f"{name} {size.width}x{size.height} {loud}")


def test_fields_become_options() -> None:
    app = typer.Typer()
    app.command()(draw)
    assert list(inspect.signature(draw).parameters) == ["width", "height", "name", "loud"]
    assert draw.__doc__ == "Draw something."
    result = CliRunner().invoke(app, ["--width", "3", "--name", "b", "--loud"])
    assert result.output == "b 3x2 True\n"
    assert CliRunner().invoke(app, []).exit_code == 2
    assert CliRunner().invoke(app, ["--width", "0"]).exit_code == 2
