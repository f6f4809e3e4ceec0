"""`merge`: merge an adapter into its base model, or average several adapters."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from rerank.cli.option_groups import expand_option_groups
from rerank.cli.output import Format, FormatOption, emit_output, format_number_cell, print_note, print_table
from rerank.errors import UsageError

_EXAMPLE = "Example: rerank merge adapter --out merged --reduce-intruders 0.75"


def register_cli_commands(app: typer.Typer) -> None:
    """Add the command ``merge``."""
    app.command("merge", epilog=_EXAMPLE)(merge_command)


@dataclass(frozen=True, kw_only=True)
class AverageOptions:
    """Options for averaging several adapters."""

    average_core: Annotated[
        bool,
        typer.Option(
            "--average-core", help="Average LoRA-SB adapters that were trained on shards with the same bases."
        ),
    ] = False
    concatenate: Annotated[
        bool,
        typer.Option(
            "--concatenate", help="Average LoRA adapters exactly; the rank of the result is the sum of ranks."
        ),
    ] = False


@dataclass(frozen=True, kw_only=True)
class SingleMergeOptions:
    """Options for merging one adapter."""

    reduce: Annotated[
        float | None,
        typer.Option(
            "--reduce-intruders",
            help="Factor for the singular values of intruder dimensions: 1 keeps them, 0 removes them.",
        ),
    ] = None
    top: Annotated[int, typer.Option("--top", help="Number of singular vectors examined for intruders.")] = 10
    epsilon: Annotated[
        float, typer.Option(help="Cosine threshold below which a singular vector counts as an intruder dimension.")
    ] = 0.5
    dtype: Annotated[
        str,
        typer.Option(help="Data type of the weights: float32, bfloat16, float16, or auto (as in the base model)."),
    ] = "float32"
    allow_rounding: Annotated[
        bool,
        typer.Option(
            "--allow-rounding", help="Write the model even if the data type alters the weight update by more than 10 %."
        ),
    ] = False
    device: Annotated[str, typer.Option(help="Torch device for decompositions.")] = "auto"


@expand_option_groups
def merge_command(
    average: AverageOptions,
    options: SingleMergeOptions,
    *,
    adapters: Annotated[list[str], typer.Argument(metavar="ADAPTER...", help="Folders or hub ids of PEFT adapters.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="New folder for the merged model or the averaged adapter.")],
    model: Annotated[
        str,
        typer.Option("--model", help="Untrained base model, if the adapter does not record its location."),
    ] = "",
    form: FormatOption = "text",
) -> None:
    """Merge an adapter into its base model, or average adapters that were trained on shards.

    A single adapter is merged into its base model; other commands accept the result as --model. With --average-core or
    --concatenate, several adapters are averaged into one adapter.
    """
    if average.average_core and average.concatenate:
        raise UsageError("--average-core is given with --concatenate", expected="one of these options")
    if average.average_core or average.concatenate:
        if options.reduce is not None:
            raise UsageError(
                "--reduce-intruders cannot be used with several adapters",
                expected="one adapter",
                remedy="Average the adapters first, then merge the result",
            )
        _average_adapters_command(adapters, out, model, core=average.average_core, form=form)
        return
    if len(adapters) > 1:
        raise UsageError(
            f"{len(adapters)} adapters are given",
            expected="one adapter",
            remedy="Add --average-core or --concatenate",
        )
    _merge_single_adapter_command(adapters[0], out, model, options, form)


def _merge_single_adapter_command(
    adapter: str, out: Path, model: str, options: SingleMergeOptions, form: Format
) -> None:
    from rerank.finetune.inspection.inspected_model import open_inspected_model
    from rerank.finetune.inspection.merging import MergeOptions
    from rerank.finetune.inspection.merging import merge_adapter as merge_
    from rerank.lm.loading import pick_device
    from rerank.models.adapters import read_model_adapter_settings

    merging = MergeOptions(
        reduce=options.reduce,
        top=options.top,
        epsilon=options.epsilon,
        dtype=options.dtype,
        allow_rounding=options.allow_rounding,
        device=pick_device(options.device),
    )
    subject = open_inspected_model(adapter, model)
    merged = merge_(subject, out, merging)
    rows = [[row.name, row.before, row.after] for row in merged.reduced]
    content = merged.to_dict()
    emit_output(content, form=form, text=lambda: print_table(["matrix", "intruders", "after"], rows) if rows else None)
    print_note(f"{merged.changed} matrices and vectors changed; written in {merged.dtype}: {merged.out}")
    if merged.rounded is not None and merged.rounded > 0.01:
        rounded = format_number_cell(100 * merged.rounded, 1)
        print_note(f"Rounding to {merged.dtype} altered the weight update by {rounded} % of its norm")
    if use := read_model_adapter_settings(merged.out):
        print_note(f"To use it: rerank run --collection COLLECTION --model {merged.out} (method {use.method})")


def _average_adapters_command(adapters: list[str], out: Path, model: str, *, core: bool, form: Format) -> None:
    from rerank.finetune.inspection.averaging import average_adapter_cores, concatenate_adapter_factors
    from rerank.finetune.inspection.folders import check_new_merge_folder
    from rerank.finetune.inspection.inspected_model import open_inspected_model

    check_new_merge_folder(out)
    opened = [open_inspected_model(adapter, model) for adapter in adapters]
    count = average_adapter_cores(opened, out) if core else concatenate_adapter_factors(opened, out)
    content = {"out": str(out), "adapters": len(opened), "matrices": count}
    emit_output(content, form=form, text=lambda: None)
    print_note(f"{len(opened)} adapters of {count} matrices averaged: {out}")
