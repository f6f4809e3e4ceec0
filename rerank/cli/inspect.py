"""`inspect`: what training changed in a model, matrix by matrix, and what it made the model forget."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rerank.cli.groups import unfolded
from rerank.cli.output import FormatOption, emit, note, number, table

if TYPE_CHECKING:
    from rerank.finetune.inspection.forgetting import Forgetting
    from rerank.finetune.inspection.report import Inspection

_EXAMPLE = "Example: rerank inspect adapter --forgetting --plot adapter.png"


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("inspect", epilog=_EXAMPLE)(inspect)


@dataclass(frozen=True, kw_only=True)
class Looked:
    """How matrices are looked at."""

    top: Annotated[
        int, typer.Option("--top", help="Singular vectors that are looked at for intruders; 0 leaves them out.")
    ] = 10
    epsilon: Annotated[
        float, typer.Option(help="A direction is an intruder below that cosine to every direction before training.")
    ] = 0.5
    tolerance: Annotated[float, typer.Option(help="Entries that moved at most so far count as unchanged.")] = 1e-5
    reduction: Annotated[
        float | None,
        typer.Option("--rank-profile", help="Rank of each untrained matrix if that share of singular values goes."),
    ] = None
    device: Annotated[str, typer.Option(help="Where decompositions and the forgetting test run.")] = "auto"


@unfolded
def inspect(
    looked: Looked,
    *,
    adapter: Annotated[
        str, typer.Argument(metavar="ADAPTER", help="Folder of a PEFT adapter or of a trained model, or a hub id.")
    ],
    model: Annotated[
        str,
        typer.Option("--model", help="The untrained model, where the adapter's own note of it does not lead there."),
    ] = "",
    forgetting: Annotated[
        bool, typer.Option("--forgetting", help="Also ask general texts and sentences, before and after.")
    ] = False,
    picture: Annotated[
        Path | None, typer.Option("--plot", help="Draw size, rank and intruders by layer (png, svg, pdf).")
    ] = None,
    form: FormatOption = "text",
) -> None:
    """Show what training changed: size, rank, untouched entries and intruder dimensions of every matrix.

    With --forgetting, also what it made the model forget: perplexity of general texts and simple sentences to finish.
    """
    from rerank.evaluation.plots import check_plot
    from rerank.finetune.inspection.report import Looking, inspect_subject
    from rerank.finetune.inspection.subject import open_subject
    from rerank.lm.loading import pick_device

    if picture is not None:
        check_plot(picture)
    looking = Looking(
        top=looked.top,
        epsilon=looked.epsilon,
        tolerance=looked.tolerance,
        reduction=looked.reduction,
        device=pick_device(looked.device),
    )
    subject = open_subject(adapter, model)
    found = inspect_subject(subject, looking)
    forgot = _forgetting(found, looked.device) if forgetting else None
    content = found.to_dict() | {"forgetting": None if forgot is None else forgot.to_dict()}
    emit(content, form=form, text=lambda: _show(found, forgot), rows="matrices")
    for message in found.notes:
        note(message)
    if picture is not None:
        from rerank.finetune.inspection.plots import plot_inspection

        plot_inspection(found, picture)
        note(f"Drawn: {picture}")


def _forgetting(found: Inspection, device: str) -> Forgetting:
    from rerank.finetune.inspection.forgetting import count, measure_forgetting
    from rerank.progress import progress
    from rerank.tasks import BackendOptions

    with progress("texts and sentences", 2 * count()) as advance:
        return measure_forgetting(found.subject, BackendOptions(device=device), advance=advance)


def _show(found: Inspection, forgot: Forgetting | None) -> None:
    profile = found.looking.reduction is not None
    heads = ["matrix", "rows", "columns", "|d|/|W|", "rank", "entropy rank", "unmoved", "intruders"]
    rows: list[list[object]] = []
    for row in found.rows:
        size, rank = number(row.relative), number(row.entropy_rank, 1)
        cells = [row.name, row.rows, row.columns, size, row.rank, rank, number(row.sparsity, 3), _dash(row.intruders)]
        rows.append([*cells, _dash(row.profile)] if profile else [*cells])
    table([*heads, "profile"] if profile else heads, rows)
    _say(dict(found.totals), found.looking.top)
    if forgot is None:
        return
    texts = [
        [t.source, t.texts, t.tokens, number(t.before, 2), number(t.after, 2), number(t.difference), f"{t.p:.3g}"]
        for t in forgot.texts
    ]
    table(["texts", "count", "tokens", "perplexity before", "after", "log-likelihood", "p"], texts)
    items = [
        [
            i.kind,
            i.items,
            i.before,
            i.after,
            i.lost,
            i.gained,
            f"{i.p:.3g}",
            number(i.difference, 3),
            f"{i.p_margin:.3g}",
        ]
        for i in forgot.items
    ]
    table(["sentences", "count", "right before", "after", "lost", "gained", "p", "margin", "p (margin)"], items)


def _say(totals: dict[str, Any], top: int) -> None:
    """The totals, on stderr."""
    if not totals["matrices"]:
        return
    note(
        f"{totals['matrices']} matrices changed, {totals['unchanged']} not, {totals['vectors']} vectors changed; "
        f"|d|/|W| {number(totals['relative'])}, mean rank {number(totals['mean_rank'], 1)}"
    )
    note(
        f"unmoved: {number(totals['sparsity'], 3)} of the changed matrices, "
        f"{number(totals['sparsity_of_model'], 3)} of all of the model's"
    )
    if top:
        note(f"intruders: {totals['intruders']}, in {totals['with_intruders']} of {totals['matrices']} matrices")


def _dash(value: int | None) -> object:
    return "-" if value is None else value
