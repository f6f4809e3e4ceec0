"""Train an adapter from a recipe and write it to a folder. Only the functions import torch and transformers."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from rerank.errors import BackendError, MissingPrerequisiteError, UnknownNameError, UsageError, ensure
from rerank.finetune.component_registry import CROSS_ENCODER_JUDGE, make_training_components, method_of_recipe
from rerank.finetune.components import RecipeComponents
from rerank.finetune.recipe import MethodTable, ReadoutTable, Recipe
from rerank.finetune.trainer import processes
from rerank.installation import check_modules
from rerank.models import resolve_model_name
from rerank.progress import ProgressFactory

if TYPE_CHECKING:
    from rerank.finetune.trainer.training_run import TrainingRun

#: Fields of a result that only the main process knows.
_MAIN_PROCESS_FIELDS = ("steps", "loss", "trainable", "state_mb", "tokens")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingResult:
    """Result of training an adapter: its folder, validation values and resource use."""

    folder: str
    steps: int
    loss: float  #: Mean training loss in the last line of the metrics.
    #: Validation measure and held-out loss of the saved weights, by name; empty without validation.
    validation: dict[str, float]
    #: Validation measure of the first-stage rankings, by name; empty without a validation collection.
    first_stage: dict[str, float]
    seconds: float  #: Wall time of this process.
    peak_mb: float  #: Peak memory use in MiB: GPU memory if there is a GPU, otherwise memory of the process.
    trainable: int
    state_mb: float  #: Size of the optimizer state in MiB.
    tokens: int  #: Number of tokens processed by this process.
    #: Mapping from the selector of each hub data set in the recipe to the same selector with the commit that was used.
    datasets: dict[str, str] = field(default_factory=dict)


def train_adapter(
    recipe: Recipe,
    folder: Path,
    *,
    resume: bool = False,
    device: str = "auto",
    report_to: Sequence[str] | None = None,
    progress: ProgressFactory = lambda title, total, done: nullcontext(lambda steps: None),
) -> TrainingResult:
    """Train a model as a recipe describes, and write the adapter with its model card into a folder.

    With ``resume``, continue from the last complete checkpoint, if any. ``report_to`` names the services to which
    metrics are reported, by default tensorboard if it is installed; they may change when a training is resumed. In
    processes other than the main process, most fields of the result are 0 or empty.
    """
    components = make_training_components(recipe)
    for component in (components.adapter, components.optimizer):
        if hasattr(component, "check_machine"):
            component.check_machine()
    services = pick_reporting_services(report_to)
    check_modules("Training", ("torch", "transformers"), "train")
    resolve_model_name(recipe.model)  # so that an unknown model is reported before the data are read
    make_run = _pick_run(recipe, components)
    import torch.distributed  # after the recipe was checked, which needs no torch

    started = time.monotonic()
    run = make_run(recipe, components, folder, device=device, report_to=services)
    with reporting_environment(folder, services), run.explain_out_of_memory():
        try:
            run.train(resume=resume, progress=progress)
        finally:  # the threads of torch's process group would communicate while processes exit
            if torch.distributed.is_available() and torch.distributed.is_initialized():
                torch.distributed.destroy_process_group()
    if not (outcome := run.outcome):  # not the main process
        outcome = dict.fromkeys(_MAIN_PROCESS_FIELDS, 0) | {"validation": {}, "first_stage": {}}
    seconds = round(time.monotonic() - started, 1)
    return TrainingResult(folder=str(folder), seconds=seconds, peak_mb=processes.peak_memory_mb(), **outcome)


def _pick_run(recipe: Recipe, components: RecipeComponents) -> Callable[..., TrainingRun]:
    """Return the class or function that creates the training run, after checking recipes for cross-encoders."""
    method = method_of_recipe(recipe)
    if method.judge.name == CROSS_ENCODER_JUDGE:
        check_cross_encoder_recipe(recipe, components, backend=method.backend)
        from rerank.finetune.trainer.cross_encoder_training import CrossEncoderRun

        return CrossEncoderRun
    from rerank.finetune.trainer.training_run import TrainingRun

    return components.objective.run if components.objective else TrainingRun


def check_cross_encoder_recipe(recipe: Recipe, components: RecipeComponents, *, backend: str) -> None:
    """Check that all settings of a recipe apply to a cross-encoder; ``backend`` is that of the recipe's method."""
    method = recipe.method.method
    ensure(
        backend == "cross_encoder",
        f"method = {method!r} cannot be trained",
        expected="method = 'cross-encoder', whose models can be trained",
    )
    ensure(
        components.adapter.shape == "full" and components.adapter.saves == "model",
        f"adapter = {recipe.adapter.name!r} cannot be used with method = {method!r}, which trains a whole model",
        expected="the adapter full",
        remedy='Write name = "full" below [adapter]',
    )
    for table, loss in zip(recipe.losses, components.losses, strict=True):
        on = f" with on = {table.on!r}" if table.on else ""
        ensure(
            loss.of != "tokens" and table.on in (None, "logits"),
            f"The loss {table.name!r}{on} cannot be used with method = {method!r}, which generates no text and uses no "
            "attention weights",
            expected="losses on scores without 'on', such as distill, ranknet or listnet",
            remedy="Name one of these losses in [[losses]]",
        )
    if (number := os.environ.get("WORLD_SIZE", "1")) != "1":
        raise UsageError(
            f"method = {method!r} cannot be trained with {number} processes",
            expected="a single process, without torchrun",
        )
    settings = {
        f"layers = {recipe.layers.name!r}" if recipe.layers else "": recipe.layers is not None,
        "the table [readout], which is about attention,": recipe.readout != ReadoutTable(),
        f"prompt = {recipe.method.prompt!r}": recipe.method.prompt != MethodTable().prompt,
        f"neftune = {recipe.training.neftune:g}": recipe.training.neftune > 0,
        "fsdp = true": recipe.training.fsdp,
    }
    if unused := [name for name, is_set in settings.items() if is_set]:
        raise UsageError(
            f"{' and '.join(unused)} cannot be used with method = {method!r}",
            expected="a recipe without settings that do not apply to cross-encoders",
        )
    modules = ("sentence_transformers", "datasets")
    check_modules(f"Training for method = {method!r}", modules, "train", "cross-encoder")


def pick_reporting_services(names: Sequence[str] | None) -> list[str]:
    """Return the names of the services, as transformers' argument ``report_to`` accepts them.

    ``names`` may be ``none`` for no service. If None, tensorboard is used if it is installed.
    """
    if names is None:
        return ["tensorboard"] if find_spec("tensorboard") else []
    from transformers.integrations.integration_utils import (
        INTEGRATION_TO_CALLBACK,
        get_available_reporting_integrations,
    )

    installed = get_available_reporting_integrations()  # type: ignore[no-untyped-call]
    if (wanted := [name for name in dict.fromkeys(names) if name != "none"]) and "none" in names:
        raise UsageError(
            f"--report-to none is combined with --report-to {wanted[0]}", expected="either none or names of services"
        )
    for name in wanted:
        if name not in INTEGRATION_TO_CALLBACK:
            known = [*INTEGRATION_TO_CALLBACK, "none"]
            raise UnknownNameError("reporting service", name, known, limit=len(known))
        if name not in installed:
            raise MissingPrerequisiteError(
                f"The training is to be reported to {name}, which is not installed",
                remedy=f"Run: pip install {name.replace('_', '-')}, or omit --report-to {name}",
            )
    return wanted


@contextmanager
def reporting_environment(folder: Path, services: Sequence[str]) -> Iterator[None]:
    """Set environment variables so that services write into the training folder and send nothing over the network.

    Variables that are already set keep their values, except for the folder of tensorboard. Runs of wandb are offline
    (``wandb sync`` uploads them), and finished at the end.
    """
    ours = {
        "WANDB_MODE": "offline",
        "WANDB_DIR": str(folder),
        "WANDB_PROJECT": "rerank",
        "MLFLOW_TRACKING_URI": (folder.absolute() / "mlruns").as_uri(),
        "MLFLOW_ALLOW_FILE_STORE": "true",  # newer versions of mlflow require it for folders
        "MLFLOW_EXPERIMENT_NAME": "rerank",
    }
    changed = {"TENSORBOARD_LOGGING_DIR": str(folder / "tensorboard")} | {
        key: value for key, value in ours.items() if key not in os.environ
    }
    before = {key: os.environ.get(key) for key in changed}
    os.environ.update(changed)
    try:
        yield
    except Exception as error:
        if (service := type(error).__module__.partition(".")[0]) not in services:
            raise
        raise BackendError(
            f"Reporting to {service} failed: {error}",
            remedy=f"Check the settings of {service}, or continue with --resume --report-to none",
        ) from error
    finally:
        if (wandb := sys.modules.get("wandb")) is not None and getattr(wandb, "run", None) is not None:
            wandb.finish()
        for key, value in before.items():
            os.environ.pop(key) if value is None else os.environ.update({key: value})
