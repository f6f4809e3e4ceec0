"""`transfer`: an adapter of one base model teaches another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from rerank.cli.groups import unfolded
from rerank.cli.output import FormatOption, emit, note, number, table
from rerank.cli.run import execute_with_progress
from rerank.experiment.spec import RunSpec
from rerank.progress import progress

_EXAMPLE = (
    "Example: rerank transfer adapters/first --to Qwen/Qwen3-0.6B --collection pydoc --max-queries 100 "
    "--recipe recipe.toml --out adapters/second"
)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("transfer", epilog=_EXAMPLE)(unfolded(transfer))


@dataclass(frozen=True, kw_only=True)
class Lists:
    """What is ranked and learnt."""

    collection: Annotated[str, typer.Option("--collection", "--dataset", help="Selector of the collection.")]
    first_stage: Annotated[str, typer.Option(help="Selector of the first stage.")] = "bm25"
    depth: Annotated[int, typer.Option(help="Candidates a query.")] = 20
    max_queries: Annotated[int | None, typer.Option(help="Take only the first so many queries.")] = None


@dataclass(frozen=True, kw_only=True)
class Learning:
    """Who learns, and how."""

    to: Annotated[str, typer.Option("--to", metavar="MODEL", help="The base model that learns.")]
    recipe: Annotated[Path, typer.Option(help="A recipe; model, lists and collection in it are replaced.")]
    held_out: Annotated[float, typer.Option(help="Share of the queries that are labelled and not learnt from.")] = 0.1


@dataclass(frozen=True, kw_only=True)
class Going:
    """Where it is done."""

    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of everything; the adapter is student/ in it.")]
    resume: Annotated[bool, typer.Option("--resume", help="Go on where it stopped.")] = False
    device: Annotated[str, typer.Option(help="Torch device.")] = "auto"


def transfer(
    lists: Lists,
    learning: Learning,
    going: Going,
    *,
    adapter: Annotated[str, typer.Argument(help="What `rerank train` left: the teacher.", show_default=False)],
    form: FormatOption = "text",
) -> None:
    """Let an adapter rank lists, which need no judgments, and train another base model on its orders.

    Says how far student and teacher agree before and after: mean Kendall tau, on the lists that were learnt from and
    on those that were not.
    """
    from rerank.finetune.recipe import read_recipe
    from rerank.finetune.transfer import Transfer
    from rerank.finetune.transfer import transfer as run

    asked = Transfer(
        adapter=adapter,
        model=learning.to,
        spec=RunSpec.make(asdict(lists)),
        recipe=read_recipe(learning.recipe),
        folder=going.out,
        held_out=learning.held_out,
    )
    report = run(asked, resume=going.resume, device=going.device, run=execute_with_progress, progress=progress)
    emit(report, form=form, text=lambda: _show(report))
    flag = "--adapter" if (Path(report["folder"]) / "adapter_config.json").is_file() else "--model"
    note(f"Use it: rerank run --collection COLLECTION {flag} {report['folder']}")


def _show(report: Mapping[str, Any]) -> None:
    counts = {"train": report["lists"], "held_out": report["held_out"]}
    rows = [
        [part.replace("_", " "), counts[part], number(taus["before"]), number(taus["after"])]
        for part, taus in report["agreement"].items()
    ]
    table(["lists", "number", "tau before", "tau after"], rows)
    for reason, count in report["left_out"].items():
        note(f"left out: {count}, {reason}")
