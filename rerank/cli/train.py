"""`train`: train an adapter from a recipe."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import typer

from rerank.cli.option_groups import expand_option_groups
from rerank.cli.output import FormatOption, emit_output, format_number_cell, print_note, print_table
from rerank.errors import UsageError
from rerank.progress import show_progress

_EXAMPLE = "Example: rerank train recipe.toml --out adapters/first"
Recipe = Annotated[Path, typer.Argument(help="TOML file of the recipe.", show_default=False)]
Out = Annotated[Path, typer.Option("--out", "-o", help="Folder for the adapter, its checkpoints and its metrics.")]
Resume = Annotated[bool, typer.Option("--resume", help="Continue from the last checkpoint.")]
TrustRemoteCode = Annotated[
    bool, typer.Option("--trust-remote-code", help="Permit the recipe to run Python code that comes with its models.")
]
Push = Annotated[
    str,
    typer.Option("--push", metavar="OWNER/NAME", help="Upload the adapter to the hub; the environment needs HF_TOKEN."),
]


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """Options that do not affect the trained weights, such as the device and the reporting of metrics."""

    device: Annotated[str, typer.Option(help="Torch device.")] = "auto"
    report_to: Annotated[
        list[str] | None,
        typer.Option(
            "--report-to",
            metavar="SERVICE",
            help="Report metrics to tensorboard, wandb (offline), mlflow or another service of transformers, or to "
            "none. Repeatable; tensorboard by default.",
            show_default=False,
        ),
    ] = None
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Estimate memory and time from the recipe, without loading the model.")
    ] = False
    processes: Annotated[int, typer.Option(help="Number of processes (GPUs) that --dry-run assumes.", min=1)] = 1


def register_cli_commands(app: typer.Typer) -> None:
    """Add the command ``train``."""
    app.command("train", epilog=_EXAMPLE)(train_command)


@expand_option_groups
def train_command(
    options: TrainOptions,
    *,
    recipe: Recipe,
    out: Out,
    resume: Resume = False,
    trust_remote_code: TrustRemoteCode = False,
    push: Push = "",
    form: FormatOption = "text",
) -> None:
    """Train an adapter, a whole model or a cross-encoder. `rerank run` uses the method and prompt of the training.

    An interrupted training can be continued with --resume and results in the same weights.
    """
    from rerank.finetune.component_registry import make_training_components
    from rerank.finetune.recipe import read_recipe
    from rerank.finetune.trainer.adapter_folder import push_adapter_to_hub
    from rerank.finetune.trainer.training import train_adapter as run

    read = read_recipe(recipe, trust_remote_code=trust_remote_code)
    if options.processes > 1 and not options.dry_run:
        raise UsageError(
            f"--processes {options.processes} is given without --dry-run",
            expected="--processes only with --dry-run, because torchrun starts the processes of a training",
            remedy=f"Run torchrun --standalone --nproc-per-node={options.processes} -m rerank train ...",
        )
    if options.dry_run:
        _estimate(read, options, form)
        return
    make_training_components(read)
    result = run(read, out, resume=resume, device=options.device, report_to=options.report_to, progress=show_progress)
    content = dataclasses.asdict(result)
    rows: list[list[object]] = [
        ["steps", result.steps],
        ["loss", format_number_cell(result.loss)],
        ["trainable parameters", f"{result.trainable:,}"],
        ["seconds", result.seconds],
        ["peak MiB", result.peak_mb],
    ]
    for title, values in (("first stage", result.first_stage), ("trained", result.validation)):
        rows += [[f"{name}, {title}", format_number_cell(value)] for name, value in values.items()]
    emit_output(content, form=form, text=lambda: print_table(["", result.folder], rows))
    if push:
        print_note(push_adapter_to_hub(out, push))
    flag = "--adapter" if (out / "adapter_config.json").is_file() else "--model"
    print_note(f"To use it: rerank run --collection COLLECTION {flag} {out}")


def _estimate(recipe: Any, options: TrainOptions, form: FormatOption) -> None:
    """Print the expected memory and time of the training."""
    from rerank.finetune.trainer.cost_estimate import estimate_training

    found = estimate_training(recipe, processes=options.processes, device=options.device)
    counts = ("parameters", "trained", "steps", "tokens_per_list", "tokens")
    rows: list[list[object]] = [[name.replace("_", " "), f"{found[name]:,}"] for name in counts]
    rows += [["operations", f"{found['flops']:.2e}"], ["H100 hours", "{:.2g} to {:.2g}".format(*found["h100_hours"])]]
    parts = ("weights", "gradients", "state", "gathered", "activations", "total")
    rows += [[f"GB per process: {name}", f"{found[name] / 1e9:.2f}"] for name in parts]
    emit_output(found, form=form, text=lambda: print_table(["at most", ""], rows))
