"""`transfer`: train another base model on the rankings of an adapter."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from rerank.cli.option_groups import expand_option_groups
from rerank.cli.output import FormatOption, emit_output, format_number_cell, print_note, print_table
from rerank.cli.run import execute_with_progress_bar
from rerank.cli.train import TrustRemoteCode
from rerank.experiment.spec import RunSpec
from rerank.progress import show_progress

_EXAMPLE = (
    "Example: rerank transfer adapters/first --to Qwen/Qwen3-0.6B --collection pydoc --max-queries 100 "
    "--recipe recipe.toml --out adapters/second"
)


def register_cli_commands(app: typer.Typer) -> None:
    """Add the command ``transfer``."""
    app.command("transfer", epilog=_EXAMPLE)(expand_option_groups(transfer_command))


@dataclass(frozen=True, kw_only=True)
class TransferListOptions:
    """Options for the candidate lists that the teacher ranks and the student learns from."""

    collection: Annotated[str, typer.Option("--collection", "--dataset", help="Selector of the collection.")]
    first_stage: Annotated[str, typer.Option(help="Selector of the first stage.")] = "bm25"
    depth: Annotated[int, typer.Option(help="Number of candidates per query.")] = 20
    max_queries: Annotated[int | None, typer.Option(help="Use only the first N queries.")] = None


@dataclass(frozen=True, kw_only=True)
class StudentOptions:
    """Options for the student, the base model that is trained on the teacher's rankings."""

    to: Annotated[str, typer.Option("--to", metavar="MODEL", help="Base model of the student.")]
    recipe: Annotated[Path, typer.Option(help="Recipe for the training; its model, lists and collection are replaced.")]
    held_out: Annotated[float, typer.Option(help="Fraction of the queries that are labelled but not trained on.")] = 0.1
    trust_remote_code: TrustRemoteCode = False


@dataclass(frozen=True, kw_only=True)
class TransferOutputOptions:
    """Options for the output folder and the execution."""

    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder for all results; its subfolder student contains the adapter.")
    ]
    resume: Annotated[bool, typer.Option("--resume", help="Continue an unfinished transfer.")] = False
    device: Annotated[str, typer.Option(help="Torch device.")] = "auto"


def transfer_command(
    lists: TransferListOptions,
    student: StudentOptions,
    output: TransferOutputOptions,
    *,
    adapter: Annotated[
        str, typer.Argument(help="Adapter of the teacher, written by `rerank train`.", show_default=False)
    ],
    form: FormatOption = "text",
) -> None:
    """Rank lists with an adapter and train another base model on the rankings. No relevance judgments are needed.

    Report the mean Kendall's tau between student and teacher before and after training, on training and held-out lists.
    """
    from rerank.finetune.extra.transfer import TransferSpec
    from rerank.finetune.extra.transfer import transfer_adapter as run
    from rerank.finetune.recipe import read_recipe

    transfer_spec = TransferSpec(
        adapter=adapter,
        model=student.to,
        spec=RunSpec.make(asdict(lists)),
        recipe=read_recipe(student.recipe, trust_remote_code=student.trust_remote_code),
        folder=output.out,
        held_out=student.held_out,
    )
    report = run(
        transfer_spec, resume=output.resume, device=output.device, run=execute_with_progress_bar, progress=show_progress
    )
    emit_output(report, form=form, text=lambda: _print_transfer_report(report))
    flag = "--adapter" if (Path(report["folder"]) / "adapter_config.json").is_file() else "--model"
    print_note(f"To use it: rerank run --collection COLLECTION {flag} {report['folder']}")


def _print_transfer_report(report: Mapping[str, Any]) -> None:
    counts = {"train": report["lists"], "held_out": report["held_out"]}
    rows = [
        [part.replace("_", " "), counts[part], format_number_cell(taus["before"]), format_number_cell(taus["after"])]
        for part, taus in report["agreement"].items()
    ]
    print_table(["lists", "number", "tau before", "tau after"], rows)
    for reason, count in report["left_out"].items():
        print_note(f"omitted: {count}, {reason}")
