"""`train`, `transfer`, `inspect`, `merge`, `heads`: train models and adapters, and examine what training changed."""

import dataclasses
from pathlib import Path
from typing import Annotated, Any

from typer import Argument, Option

from rerank.cli.app import command, command_group
from rerank.cli.options import DecompositionDevice, FormatOption, OptionGroup, TorchDevice
from rerank.cli.output import emit, emit_content, print_note
from rerank.cli.run import execute_with_progress_bar, progress_bar
from rerank.cli.spec_options import takes_run_spec
from rerank.errors import UsageError
from rerank.experiment.spec import Execution, RunSpec
from rerank.installation import check_modules
from rerank.io.reports import Grid, make_grid
from rerank.io.text_files import check_file_writable
from rerank.models.adapters import read_settings
from rerank.progress import show_progress

TrustRemoteCode = Annotated[
    bool, Option("--trust-remote-code", help="Permit the recipe to run Python code that comes with its models.")
]
BaseModel = Annotated[str, Option("--model", help="Untrained base model, if the adapter does not record its location.")]
TopVectors = Annotated[int, Option("--top", help="Number of singular vectors examined for intruders.")]
Epsilon = Annotated[float, "Cosine threshold below which a singular vector counts as an intruder dimension."]


class TrainOptions(OptionGroup):
    """Options that do not affect the trained weights, such as the device and the reporting of metrics."""

    device: TorchDevice = "auto"
    report_to: Annotated[
        list[str] | None,
        Option(
            "--report-to",
            metavar="SERVICE",
            help="Report metrics to tensorboard, wandb (offline), mlflow or another service of transformers, or to "
            "none. Repeatable; tensorboard by default.",
            show_default=False,
        ),
    ] = None
    dry_run: Annotated[bool, "Estimate memory and time from the recipe, without loading the model."] = False
    processes: Annotated[int, Option(help="Number of processes (GPUs) that --dry-run assumes.", min=1)] = 1


@command("train", "rerank train recipe.toml --out adapters/first")
def train(
    options: TrainOptions,
    *,
    recipe: Annotated[Path, Argument(help="TOML file of the recipe.", show_default=False)],
    out: Annotated[Path, Option("--out", "-o", help="Folder for the adapter, its checkpoints and its metrics.")],
    resume: Annotated[bool, "Continue from the last checkpoint."] = False,
    trust_remote_code: TrustRemoteCode = False,
    push: Annotated[
        str,
        Option("--push", metavar="OWNER/NAME", help="Upload the adapter to the hub; the environment needs HF_TOKEN."),
    ] = "",
    form: FormatOption = "text",
) -> None:
    """Train an adapter, a whole model or a cross-encoder. `rerank run` uses the method and prompt of the training.

    An interrupted training can be continued with --resume and results in the same weights.
    """
    from rerank.finetune.component_registry import make_training_components
    from rerank.finetune.recipe import read_recipe
    from rerank.finetune.trainer.training import train_adapter
    from rerank.finetune.trainer.training_folder import check_hub_repository, push_adapter_to_hub

    read = read_recipe(recipe, trust_remote_code=trust_remote_code)
    if options.processes > 1 and not options.dry_run:
        raise UsageError(
            f"--processes {options.processes} is given without --dry-run",
            expected="--processes only with --dry-run, because torchrun starts the processes of a training",
            remedy=f"Run torchrun --standalone --nproc-per-node={options.processes} -m rerank train ...",
        )
    rows: list[list[object]]
    if options.dry_run:
        check_modules("--dry-run", ("torch", "transformers"), "train")
        from rerank.finetune.trainer.cost_estimate import estimate_training  # imports torch

        found = estimate_training(read, processes=options.processes, device=options.device)
        counts = ("parameters", "trained", "steps", "tokens_per_list", "tokens")
        rows = [[name.replace("_", " "), f"{found[name]:,}"] for name in counts]
        rows += [
            ["operations", f"{found['flops']:.2e}"],
            ["H100 hours", "{:.2g} to {:.2g}".format(*found["h100_hours"])],
        ]
        parts = ("weights", "gradients", "state", "gathered", "activations", "total")
        rows += [[f"GB per process: {name}", f"{found[name] / 1e9:.2f}"] for name in parts]
        heads = ("card", "cards", "adapter", "settings", "GB per card", "fits", "steps per hour, at most", "limit")
        plan = make_grid(heads, [_plan_row(row) for row in found["cards"]])
        emit_content(found, [make_grid(["at most", ""], rows), plan], form)
        print_note(
            "Computed, not measured: formulas in docs/training/several-gpus.md; trainings reach 20 to 37 % of the peak"
        )
        return
    make_training_components(read)
    if push:
        check_hub_repository(push)
    result = train_adapter(
        read, out, resume=resume, device=options.device, report_to=options.report_to, progress=show_progress
    )
    rows = [
        ["steps", result.steps],
        ["loss", result.loss],
        ["trainable parameters", f"{result.trainable:,}"],
        ["seconds", str(result.seconds)],
        ["peak MiB", str(result.peak_mb)],
    ]
    for title, values in (("first stage", result.first_stage), ("trained", result.validation)):
        rows += [[f"{name}, {title}", value] for name, value in values.items()]
    emit_content(dataclasses.asdict(result), [make_grid(["", result.folder], rows)], form)
    if push:
        print_note(push_adapter_to_hub(out, push))
    _print_use(out)


def _plan_row(row: dict[str, Any]) -> list[object]:
    settings = ", ".join(name for name in ("fsdp", "checkpointing") if row[name]) or "none"
    memory, limit = f"{row['memory']['total'] / 1e9:.1f}", max(row["seconds"], key=row["seconds"].get)
    cells = [row["card"], row["cards"], row["adapter"], settings, memory]
    return [
        *cells,
        *(("yes", f"{float(format(row['steps_per_hour'], '.3g')):,.0f}", limit) if row["fits"] else ("no", "", "")),
    ]


def _print_use(folder: Path) -> None:
    flag = "--adapter" if (folder / "adapter_config.json").is_file() else "--model"
    print_note(f"To use it: rerank run --collection COLLECTION {flag} {folder}")


class TransferOptions(OptionGroup):
    """Options for the candidate lists that the teacher ranks, the student that learns from them, and the execution."""

    collection: Annotated[str, Option("--collection", "--dataset", help="Selector of the collection.")]
    first_stage: Annotated[str, "Selector of the first stage."] = "bm25"
    depth: Annotated[int, "Number of candidates per query."] = 20
    max_queries: Annotated[int | None, "Use only the first N queries."] = None
    to: Annotated[str, Option("--to", metavar="MODEL", help="Base model of the student.")]
    recipe: Annotated[Path, "Recipe for the training; its model, lists and collection are replaced."]
    held_out: Annotated[float, "Fraction of the queries that are labelled but not trained on."] = 0.1
    trust_remote_code: TrustRemoteCode = False
    out: Annotated[
        Path, Option("--out", "-o", help="Folder for all results; its subfolder student contains the adapter.")
    ]
    resume: Annotated[bool, "Continue an unfinished transfer."] = False
    device: TorchDevice = "auto"


@command(
    "transfer",
    "rerank transfer adapters/first --to Qwen/Qwen3-0.6B --collection pydoc --max-queries 100 --recipe recipe.toml "
    "--out adapters/second",
)
def transfer(
    options: TransferOptions,
    *,
    adapter: Annotated[str, Argument(help="Adapter of the teacher, written by `rerank train`.", show_default=False)],
    form: FormatOption = "text",
) -> None:
    """Rank lists with an adapter and train another base model on the rankings. No relevance judgments are needed.

    Report the mean Kendall's tau between student and teacher before and after training, on training and held-out lists.
    """
    from rerank.finetune.extra.transfer import TransferSpec, transfer_adapter
    from rerank.finetune.recipe import read_recipe

    of_lists = ("collection", "first_stage", "depth", "max_queries")
    report = transfer_adapter(
        TransferSpec(
            adapter=adapter,
            model=options.to,
            spec=RunSpec.make({name: getattr(options, name) for name in of_lists}),
            recipe=read_recipe(options.recipe, trust_remote_code=options.trust_remote_code),
            folder=options.out,
            held_out=options.held_out,
        ),
        resume=options.resume,
        device=options.device,
        run=execute_with_progress_bar,
        progress=show_progress,
    )
    counts = {"train": report["lists"], "held_out": report["held_out"]}
    rows = [
        [part.replace("_", " "), counts[part], taus["before"], taus["after"]]
        for part, taus in report["agreement"].items()
    ]
    notes = [f"omitted: {count}, {reason}" for reason, count in report["left_out"].items()]
    emit_content(report, [make_grid(["lists", "number", "tau before", "tau after"], rows), *notes], form)
    _print_use(Path(report["folder"]))


class InspectOptions(OptionGroup):
    """Options for the analysis of how training changed weight matrices."""

    top: Annotated[int, "Number of singular vectors examined for intruder dimensions; 0 skips the search."] = 10
    epsilon: Epsilon = 0.5
    tolerance: Annotated[float, "Entries whose absolute change is at most this count as unchanged."] = 1e-5
    reduction: Annotated[
        float | None,
        Option(
            "--rank-profile",
            help="Also report the rank of each untrained matrix after removing this fraction of singular values.",
        ),
    ] = None
    device: DecompositionDevice = "auto"


@command("inspect", "rerank inspect adapter --rank-profile 0.5")
def inspect(
    options: InspectOptions,
    *,
    adapter: Annotated[
        str, Argument(metavar="ADAPTER", help="Folder of a PEFT adapter or of a trained model, or a hub id.")
    ],
    model: BaseModel = "",
    form: FormatOption = "text",
) -> None:
    """Report how training changed each weight matrix: norm, rank, sparsity and intruder dimensions."""
    from rerank.finetune.inspection.checkpoints import open_inspected_model
    from rerank.finetune.inspection.report import InspectionOptions, inspect_trained_matrices
    from rerank.lm.loading import pick_device

    settings = InspectionOptions(**{**vars(options), "device": pick_device(options.device)})
    inspection = inspect_trained_matrices(open_inspected_model(adapter, model), settings)
    emit(inspection, form)
    for message in inspection.notes:
        print_note(message)


class SingleMergeOptions(OptionGroup):
    """Options for merging one adapter."""

    reduce: Annotated[
        float | None,
        Option(
            "--reduce-intruders",
            help="Factor for the singular values of intruder dimensions: 1 keeps them, 0 removes them.",
        ),
    ] = None
    top: TopVectors = 10
    epsilon: Epsilon = 0.5
    dtype: Annotated[str, "Data type of the weights: float32, bfloat16, float16, or auto (as in the base model)."] = (
        "float32"
    )
    allow_rounding: Annotated[
        bool, "Write the model even if the data type alters the weight update by more than 10 %."
    ] = False
    device: DecompositionDevice = "auto"


@command("merge", "rerank merge adapter --out merged --reduce-intruders 0.75")
def merge(
    *,
    average_core: Annotated[bool, "Average LoRA-SB adapters that were trained on shards with the same bases."] = False,
    concatenate: Annotated[bool, "Average LoRA adapters exactly; the rank of the result is the sum of ranks."] = False,
    options: SingleMergeOptions,
    adapters: Annotated[list[str], Argument(metavar="ADAPTER...", help="Folders or hub ids of PEFT adapters.")],
    out: Annotated[Path, Option("--out", "-o", help="New folder for the merged model or the averaged adapter.")],
    model: BaseModel = "",
    form: FormatOption = "text",
) -> None:
    """Merge an adapter into its base model, or average adapters that were trained on shards.

    A single adapter is merged into its base model; other commands accept the result as --model. With --average-core or
    --concatenate, several adapters are averaged into one adapter.
    """
    if average_core and concatenate:
        raise UsageError("--average-core is given with --concatenate", expected="one of these options")
    if (averages := average_core or concatenate) and options.reduce is not None:
        raise UsageError(
            "--reduce-intruders cannot be used with several adapters",
            expected="one adapter",
            remedy="Average the adapters first, then merge the result",
        )
    if not averages and len(adapters) > 1:
        raise UsageError(
            f"{len(adapters)} adapters are given", expected="one adapter", remedy="Add --average-core or --concatenate"
        )
    from rerank.finetune.inspection.checkpoints import open_inspected_model
    from rerank.finetune.inspection.merging import (
        MergeOptions,
        average_adapter_cores,
        check_new_folder,
        concatenate_adapter_factors,
        merge_adapter,
    )
    from rerank.lm.loading import pick_device

    if averages:
        check_new_folder(out)
        opened = [open_inspected_model(adapter, model) for adapter in adapters]
        count = (average_adapter_cores if average_core else concatenate_adapter_factors)(opened, out)
        emit_content({"out": str(out), "adapters": len(opened), "matrices": count}, [], form)
        print_note(f"{len(opened)} adapters of {count} matrices averaged: {out}")
        return
    settings = MergeOptions(**{**vars(options), "device": pick_device(options.device)})
    merged = merge_adapter(open_inspected_model(adapters[0], model), out, settings)
    rows = [list(row.values()) for row in merged.reduced]
    emit_content(merged.to_dict(), [make_grid(["matrix", "intruders", "after"], rows)] if rows else [], form)
    print_note(f"{merged.changed} matrices and vectors changed; written in {merged.dtype}: {merged.out}")
    if merged.rounded is not None and merged.rounded > 0.01:
        print_note(f"Rounding to {merged.dtype} altered the weight update by {100 * merged.rounded:.1f} % of its norm")
    if use := read_settings(merged.out):
        print_note(f"To use it: rerank run --collection COLLECTION --model {merged.out} (method {use.method})")


heads = command_group("heads", "Select attention heads for attention rerankers.")


@command(
    "select",
    "rerank heads select --collection pydoc --depth 20 --max-queries 20 --method core --model smollm2-135m "
    "--output heads.json",
    group=heads,
)
@takes_run_spec(
    only=(
        *("collection", "first_stage", "depth", "max_queries", "queries", "shuffle", "seed", "model", "revision"),
        *("adapter", "dtype", "trust_remote_code", "prompt", "min_passage_tokens", "max_passage_tokens"),
        *("context_size", "qrels", "relevant", "device", "device_map"),
    ),
    shuffle="random",
    prompt="icr_ie",
)
def select_heads(
    spec: RunSpec,
    execution: Execution,
    *,
    output: Annotated[
        Path, Option("--output", "-o", help="JSON file for the list of heads; replies are logged in FILE.calls.")
    ],
    method: Annotated[
        str,
        "Score of a head: qrhead (attention to relevant passages), qrhead-ndcg (nDCG@10 of the head alone) or "
        "core (contrast between relevant and irrelevant passages).",
    ] = "qrhead",
    count: Annotated[
        int | None, Option("--count", min=1, help="Number of heads to select. (default: 16; core: 8)")
    ] = None,
    tau: Annotated[float, "Temperature of the method core."] = 0.1,
    form: FormatOption = "text",
) -> None:
    """Select the attention heads of a model that attend to relevant passages, based on a few judged queries.

    To use the list of heads: rerank run --method core,heads=heads.json.
    """
    from rerank.experiment.head_selection import HeadSelection, select_by_attention

    selection = HeadSelection(method=method, count=count, tau=tau)
    check_file_writable(output, "list of attention heads")
    log = output.with_name(f"{output.name}.calls")
    with progress_bar(method, spec.max_queries or 0) as on_reply:
        selected = select_by_attention(spec, execution, selection, log=log, on_reply=on_reply)
    selected.write(output)
    details = selected.details
    rows = [[layer, head, score] for (layer, head), score in zip(selected.heads, details["scores"], strict=True)]
    content: dict[str, Any] = {"output": str(output), "model": dict(selected.model), "method": method}
    content |= {"heads": selected.heads, "details": details}
    grid: Grid = make_grid(["layer", "head", "score"], rows)
    emit_content(content, [grid], form)
    print_note(
        f"{details['queries']} queries, {details['queries_skipped']} skipped; median score of a head "
        f"{details['median_score']:.4f}; {output}"
    )
