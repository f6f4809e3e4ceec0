"""`inspect`: report how training changed each weight matrix."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rerank.cli.option_groups import expand_option_groups
from rerank.cli.output import FormatOption, emit_output, format_number_cell, print_note, print_table

if TYPE_CHECKING:
    from rerank.finetune.inspection.report import Inspection

_EXAMPLE = "Example: rerank inspect adapter --rank-profile 0.5"


def register_cli_commands(app: typer.Typer) -> None:
    """Add the command ``inspect``."""
    app.command("inspect", epilog=_EXAMPLE)(inspect_command)


@dataclass(frozen=True, kw_only=True)
class InspectOptions:
    """Options for the analysis of how training changed weight matrices."""

    top: Annotated[
        int,
        typer.Option("--top", help="Number of singular vectors examined for intruder dimensions; 0 skips the search."),
    ] = 10
    epsilon: Annotated[
        float, typer.Option(help="Cosine threshold below which a singular vector counts as an intruder dimension.")
    ] = 0.5
    tolerance: Annotated[
        float, typer.Option(help="Entries whose absolute change is at most this count as unchanged.")
    ] = 1e-5
    reduction: Annotated[
        float | None,
        typer.Option(
            "--rank-profile",
            help="Also report the rank of each untrained matrix after removing this fraction of singular values.",
        ),
    ] = None
    device: Annotated[str, typer.Option(help="Torch device for decompositions.")] = "auto"


@expand_option_groups
def inspect_command(
    options: InspectOptions,
    *,
    adapter: Annotated[
        str, typer.Argument(metavar="ADAPTER", help="Folder of a PEFT adapter or of a trained model, or a hub id.")
    ],
    model: Annotated[
        str,
        typer.Option("--model", help="Untrained base model, if the adapter does not record its location."),
    ] = "",
    form: FormatOption = "text",
) -> None:
    """Report how training changed each weight matrix: norm, rank, sparsity and intruder dimensions."""
    from rerank.finetune.inspection.inspected_model import open_inspected_model
    from rerank.finetune.inspection.report import InspectionOptions, inspect_trained_matrices
    from rerank.lm.loading import pick_device

    inspection_options = InspectionOptions(
        top=options.top,
        epsilon=options.epsilon,
        tolerance=options.tolerance,
        reduction=options.reduction,
        device=pick_device(options.device),
    )
    inspection = inspect_trained_matrices(open_inspected_model(adapter, model), inspection_options)
    emit_output(inspection.to_dict(), form=form, text=lambda: _print_inspection(inspection), rows="matrices")
    for message in inspection.notes:
        print_note(message)


def _print_inspection(inspection: Inspection) -> None:
    profile = inspection.options.reduction is not None
    heads = ["matrix", "rows", "columns", "|d|/|W|", "rank", "entropy rank", "unmoved", "intruders"]
    rows: list[list[object]] = []
    for row in inspection.rows:
        size, rank = format_number_cell(row.relative), format_number_cell(row.entropy_rank, 1)
        cells = [
            row.name,
            row.rows,
            row.columns,
            size,
            row.rank,
            rank,
            format_number_cell(row.sparsity, 3),
            _printed_number_or_dash(row.intruders),
        ]
        rows.append([*cells, _printed_number_or_dash(row.profile)] if profile else [*cells])
    print_table([*heads, "profile"] if profile else heads, rows)
    _print_inspection_totals(dict(inspection.totals), inspection.options.top)


def _print_inspection_totals(totals: dict[str, Any], top: int) -> None:
    """Print the totals over all matrices on stderr."""
    if not totals["matrices"]:
        return
    print_note(
        f"{totals['matrices']} matrices changed, {totals['unchanged']} not, {totals['vectors']} vectors changed; "
        f"|d|/|W| {format_number_cell(totals['relative'])}, mean rank {format_number_cell(totals['mean_rank'], 1)}"
    )
    print_note(
        f"unmoved: {format_number_cell(totals['sparsity'], 3)} of the entries of changed matrices, "
        f"{format_number_cell(totals['sparsity_of_model'], 3)} of the entries of all matrices"
    )
    if top:
        print_note(f"intruders: {totals['intruders']}, in {totals['with_intruders']} of {totals['matrices']} matrices")


def _printed_number_or_dash(value: int | None) -> object:
    return "-" if value is None else value
