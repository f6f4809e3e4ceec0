"""`transfer`: an adapter of one base model teaches another."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from rerank.cli.output import FormatOption, emit, note, number, table
from rerank.cli.run import execute_with_progress
from rerank.cli.specs import RETRIEVAL, with_spec
from rerank.progress import progress
from rerank.spec import Execution, RunSpec

_EXAMPLE = (
    "Example: rerank transfer adapters/first --to Qwen/Qwen3-0.6B --collection pydoc --max-queries 100 "
    "--recipe training/first/recipe.toml --out adapters/second"
)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("transfer", epilog=_EXAMPLE)(transfer)


@with_spec(only=RETRIEVAL, depth="20")
def transfer(
    spec: RunSpec,
    execution: Execution,
    *,
    adapter: Annotated[str, typer.Argument(help="What `rerank train` left: the teacher.", show_default=False)],
    to: Annotated[str, typer.Option("--to", help="The base model that learns.")],
    recipe: Annotated[Path, typer.Option(help="How it learns; model, lists and collection in it are replaced.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of everything; the adapter is student/ in it.")],
    held_out: Annotated[float, typer.Option(help="Share of the queries that are not learnt from.")] = 0.1,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where it stopped.")] = False,
    device: Annotated[str, typer.Option(help="Torch device.")] = "auto",
    form: FormatOption = "text",
) -> None:
    """Let an adapter rank lists without judgments, and train another base model on its orders.

    Says how far student and teacher agree before and after: mean Kendall tau, on the lists that were learnt from and
    on those that were not.
    """
    from rerank.finetune.recipe import read_recipe
    from rerank.finetune.transfer import Transfer
    from rerank.finetune.transfer import transfer as run

    del execution
    asked = Transfer(adapter=adapter, model=to, spec=spec, recipe=read_recipe(recipe), folder=out, held_out=held_out)
    report = run(asked, resume=resume, device=device, run=execute_with_progress, progress=progress)
    emit(report, form=form, text=lambda: _show(report))
    note(f"Use it: rerank run --collection COLLECTION --adapter {report['folder']}")


def _show(report: Mapping[str, Any]) -> None:
    lists = {"train": report["lists"], "held_out": report["held_out"]}
    rows = [
        [part.replace("_", " "), lists[part], number(taus["before"]), number(taus["after"])]
        for part, taus in report["agreement"].items()
    ]
    table(["lists", "number", "tau before", "tau after"], rows)
    for reason, count in report["left_out"].items():
        note(f"left out: {count}, {reason}")
