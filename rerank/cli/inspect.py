"""`inspect`: report how training changed each weight matrix, and what the model forgot."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rerank.cli.option_groups import expand_option_groups
from rerank.cli.output import FormatOption, emit_output, format_number_cell, print_note, print_table

if TYPE_CHECKING:
    from rerank.finetune.inspection.forgetting import ForgettingReport
    from rerank.finetune.inspection.report import Inspection

_EXAMPLE = "Example: rerank inspect adapter --forgetting --plot adapter.png"


def register_cli_commands(app: typer.Typer) -> None:
    """Add the command."""
    app.command("inspect", epilog=_EXAMPLE)(inspect_command)


@dataclass(frozen=True, kw_only=True)
class InspectOptions:
    """Options for the analysis of weight matrices."""

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
    device: Annotated[str, typer.Option(help="Torch device for decompositions and the forgetting test.")] = "auto"


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
    forgetting: Annotated[
        bool, typer.Option("--forgetting", help="Also compare the untrained and trained model on general texts.")
    ] = False,
    picture: Annotated[
        Path | None, typer.Option("--plot", help="Plot of norm, rank and intruders by layer (png, svg, pdf).")
    ] = None,
    form: FormatOption = "text",
) -> None:
    """Report how training changed each weight matrix: norm, rank, sparsity and intruder dimensions.

    With --forgetting, also report perplexity on general texts and accuracy on simple sentence completions.
    """
    from rerank.evaluation.plots import check_comparison_plot
    from rerank.finetune.inspection.inspected_model import open_inspected_model
    from rerank.finetune.inspection.report import InspectionOptions, inspect_trained_matrices
    from rerank.lm.loading import pick_device

    if picture is not None:
        check_comparison_plot(picture)
    inspection_options = InspectionOptions(
        top=options.top,
        epsilon=options.epsilon,
        tolerance=options.tolerance,
        reduction=options.reduction,
        device=pick_device(options.device),
    )
    subject = open_inspected_model(adapter, model)
    inspection = inspect_trained_matrices(subject, inspection_options)
    forgetting_report = _measure_forgetting_with_progress_bar(inspection, options.device) if forgetting else None
    content = inspection.to_dict() | {"forgetting": None if forgetting_report is None else forgetting_report.to_dict()}
    emit_output(content, form=form, text=lambda: _print_inspection(inspection, forgetting_report), rows="matrices")
    for message in inspection.notes:
        print_note(message)
    if picture is not None:
        from rerank.finetune.inspection.plots import plot_inspection

        plot_inspection(inspection, picture)
        print_note(f"plot: {picture}")


def _measure_forgetting_with_progress_bar(inspection: Inspection, device: str) -> ForgettingReport:
    from rerank.finetune.inspection.forgetting import count_forgetting_items, measure_forgetting
    from rerank.progress import show_progress
    from rerank.tasks import BackendOptions

    with show_progress("texts and sentences", 2 * count_forgetting_items()) as advance:
        return measure_forgetting(inspection.subject, BackendOptions(device=device), advance=advance)


def _print_inspection(inspection: Inspection, forgetting_report: ForgettingReport | None) -> None:
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
    if forgetting_report is None:
        return
    texts = [
        [
            t.source,
            t.texts,
            t.tokens,
            format_number_cell(t.before, 2),
            format_number_cell(t.after, 2),
            format_number_cell(t.difference),
            f"{t.p:.3g}",
        ]
        for t in forgetting_report.texts
    ]
    print_table(["texts", "count", "tokens", "perplexity before", "after", "log-likelihood", "p"], texts, further=True)
    items = [
        [
            i.kind,
            i.items,
            i.before,
            i.after,
            i.lost,
            i.gained,
            f"{i.p:.3g}",
            format_number_cell(i.difference, 3),
            f"{i.p_margin:.3g}",
        ]
        for i in forgetting_report.items
    ]
    heads = ["sentences", "count", "right before", "after", "lost", "gained", "p", "margin", "p (margin)"]
    print_table(heads, items, further=True)


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
