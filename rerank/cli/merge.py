"""`merge`: an adapter made into a model of its own, or several adapters into one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from rerank.cli.groups import unfolded
from rerank.cli.output import Format, FormatOption, emit, note, number, table
from rerank.errors import UsageError

_EXAMPLE = "Example: rerank merge adapter --out merged --reduce-intruders 0.75"


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("merge", epilog=_EXAMPLE)(merge)


@dataclass(frozen=True, kw_only=True)
class Several:
    """How several adapters become one."""

    average_core: Annotated[
        bool, typer.Option("--average-core", help="Average LoRA-SB adapters of shards, which share their bases.")
    ] = False
    concatenate: Annotated[
        bool, typer.Option("--concatenate", help="Average any LoRA adapters exactly, at the sum of their ranks.")
    ] = False


@dataclass(frozen=True, kw_only=True)
class Alone:
    """How one adapter becomes a model."""

    reduce: Annotated[
        float | None,
        typer.Option(
            "--reduce-intruders", help="Multiply the singular values of intruders: 1 leaves them, 0 removes them."
        ),
    ] = None
    top: Annotated[int, typer.Option("--top", help="Singular vectors that are looked at for intruders.")] = 10
    epsilon: Annotated[
        float, typer.Option(help="A direction is an intruder below that cosine to every direction before training.")
    ] = 0.5
    dtype: Annotated[
        str, typer.Option(help="Number type of the weights: float32, bfloat16, float16; auto: as before.")
    ] = "auto"
    device: Annotated[str, typer.Option(help="Where decompositions run.")] = "auto"


@unfolded
def merge(
    several: Several,
    alone: Alone,
    *,
    adapters: Annotated[
        list[str], typer.Argument(metavar="ADAPTER...", help="Folders of PEFT adapters, or hub ids; one is merged.")
    ],
    out: Annotated[Path, typer.Option("--out", help="A new folder: a model, or of several adapters one adapter.")],
    model: Annotated[
        str,
        typer.Option("--model", help="The untrained model, where the adapter's own note of it does not lead there."),
    ] = "",
    form: FormatOption = "text",
) -> None:
    """Merge an adapter into its model, as a folder that --model takes; or average adapters that were trained on shards.

    One adapter gives a model. Several give one adapter, with --average-core or --concatenate.
    """
    if several.average_core and several.concatenate:
        raise UsageError("--average-core with --concatenate", expected="one of them")
    if several.average_core or several.concatenate:
        if alone.reduce is not None:
            raise UsageError(
                "--reduce-intruders with several adapters",
                expected="one adapter",
                remedy="Average them first, then merge what comes out",
            )
        _average(adapters, out, model, core=several.average_core, form=form)
        return
    if len(adapters) > 1:
        raise UsageError(
            f"{len(adapters)} adapters",
            expected="one",
            remedy="Say how they become one: --average-core or --concatenate",
        )
    _merge(adapters[0], out, model, alone, form)


def _merge(adapter: str, out: Path, model: str, alone: Alone, form: Format) -> None:
    from rerank.finetune.inspection.merging import Merging
    from rerank.finetune.inspection.merging import merge as merge_
    from rerank.finetune.inspection.subject import open_subject
    from rerank.lm.loading import pick_device
    from rerank.models.trained import read_trained

    merging = Merging(
        reduce=alone.reduce,
        top=alone.top,
        epsilon=alone.epsilon,
        dtype=alone.dtype,
        device=pick_device(alone.device),
    )
    subject = open_subject(adapter, model)
    made = merge_(subject, out, merging)
    rows = [[row.name, row.before, row.after] for row in made.reduced]
    content = made.to_dict()
    emit(content, form=form, text=lambda: table(["matrix", "intruders", "after"], rows) if rows else None)
    note(f"{made.changed} matrices and vectors changed; written in {made.dtype}: {made.out}")
    if made.rounded is not None and made.rounded > 0.01:
        note(f"Rounding to {made.dtype} moved the change by {number(100 * made.rounded, 1)} % of its size")
    if use := read_trained(made.out):
        note(f"Use it: rerank run --collection COLLECTION --model {made.out} (method {use.method})")


def _average(adapters: list[str], out: Path, model: str, *, core: bool, form: Format) -> None:
    from rerank.finetune.inspection.averaging import average_core, concatenate
    from rerank.finetune.inspection.folders import check_new
    from rerank.finetune.inspection.subject import open_subject

    check_new(out)
    opened = [open_subject(adapter, model) for adapter in adapters]
    count = average_core(opened, out) if core else concatenate(opened, out)
    content = {"out": str(out), "adapters": len(opened), "matrices": count}
    emit(content, form=form, text=lambda: None)
    note(f"{len(opened)} adapters of {count} matrices averaged: {out}")
