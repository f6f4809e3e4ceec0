"""The trainer of the library transformers, adapted to lists of ranked documents, with its arguments and callbacks.

Batches follow a `ListSchedule`; optimizers are components; checkpoints contain only trained tensors, as safetensors,
and are written atomically; validation is a function; a gradient that is not finite ends the training. Imports torch.
"""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import safetensors.torch
import torch
from torch import Tensor
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from rerank.errors import BackendError, DataError, UsageError
from rerank.finetune.components import Optimizer
from rerank.finetune.trainer.listwise_module import ListwiseModule, collate_examples
from rerank.finetune.trainer.schedule import ScheduledExamples
from rerank.finetune.trainer.training_folder import CHECKPOINTS, list_checkpoints, storage_errors, write_checksums
from rerank.io.atomic_folder import UNFINISHED, discard_folder, move_folder
from rerank.io.file_systems import open_without_links
from rerank.io.text_files import replace_text_file

#: File of the trained tensors in a checkpoint.
WEIGHTS = "trained.safetensors"
#: Metadata key of a checkpoint: number of lists per step, over all processes.
_PER_STEP = "lists_per_step"


class SingleGpu(TrainingArguments):
    """Training arguments that limit a process to one GPU.

    With several, transformers would use DataParallel, whose batches differ from those of the recipe. torchrun starts
    one process per GPU instead.
    """

    @property
    def n_gpu(self) -> int:
        return min(1, int(super().n_gpu))


class ListTrainer(Trainer):
    """Trainer of a `ListwiseModule` on training lists.

    ``places`` are the examples in training order, ``kept`` the names of the tensors of a checkpoint. ``validate``
    returns values on held-out data by name, the first of which selects the best checkpoint; None without validation.
    """

    #: Function that returns a loss term that depends only on the trained parameters; None without such a term.
    penalty: Callable[[], Tensor] | None = None

    def __init__(
        self,
        module: ListwiseModule,
        args: TrainingArguments,
        places: ScheduledExamples,
        *,
        optimizer: Optimizer,
        kept: Sequence[str],
        validate: Callable[[], dict[str, float]] | None = None,
    ) -> None:
        super().__init__(
            model=module,
            args=args,
            train_dataset=cast(Any, places),
            eval_dataset=[] if validate else None,
            data_collator=collate_examples,
        )
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            raise UsageError(
                "The environment enables FSDP or DeepSpeed in accelerate, whose checkpoints --resume cannot read",
                expected="processes started by torchrun, without accelerate's configuration",
                remedy="Shard the weights with fsdp = true in [training]",
            )
        self._use_recipe(places, optimizer, kept, validate)

    def _use_recipe(
        self, places: ScheduledExamples, optimizer: Optimizer, kept: Sequence[str], validate: Any = None
    ) -> None:
        self.remove_callback(PrinterCallback)
        self._part, self._kept, self._validate = optimizer, frozenset(kept), validate
        self._loss_values: dict[str, list[Tensor]] = {}
        self.tokens = 0
        self.folder = Path(str(self.args.output_dir))
        self._epochs = places.epochs

    def create_optimizer(self, model: Any = None) -> Any:
        if self.optimizer is None:
            decay = float(self.args.weight_decay)
            self.optimizer = self._part.build(self.model, lr=self.args.learning_rate, weight_decay=decay)
        return self.optimizer

    def use_inference_weights(self) -> None:
        """Let a schedule-free optimizer replace the weights by their average; the next training step undoes this."""
        if callable(use := getattr(self.optimizer, "eval", None)):
            use()

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        out = model(**inputs)
        self._count_batch(inputs["ids"].numel(), out["parts"])
        return (out["loss"], out) if return_outputs else out["loss"]

    def _count_batch(self, tokens: int, parts: Mapping[str, Tensor]) -> None:
        self.tokens += tokens
        for name, value in parts.items():
            self._loss_values.setdefault(name, []).append(value)

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Any:
        loss = super().training_step(model, inputs, num_items_in_batch)
        if self.accelerator.sync_gradients:
            self.complete_gradients()
        if self.penalty and self.accelerator.sync_gradients:
            loss = loss + self._add_penalty(self.penalty())
        return loss

    def complete_gradients(self) -> None:
        """Average gradients over processes at the end of a step; here, DistributedDataParallel has already done so."""

    def _add_penalty(self, penalty: Tensor) -> Tensor:
        """Add the gradients of the adapter's penalty, equal in all processes, once per step; return its value."""
        weights = [weight for weight in cast(torch.nn.Module, self.model).parameters() if weight.requires_grad]
        # Unlike a backward pass, this does not trigger DistributedDataParallel, which averages over processes.
        for weight, grad in zip(weights, torch.autograd.grad(penalty, weights, allow_unused=True), strict=True):
            if grad is not None:
                weight.grad = grad if weight.grad is None else weight.grad + grad
        self._loss_values.setdefault("penalty", []).append(penalty.detach())
        return penalty.detach()

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        norm = super()._get_grad_norm(model, grad_norm)  # type: ignore[no-untyped-call]
        if not torch.isfinite(torch.as_tensor(norm)):
            raise BackendError(
                f"The gradient norm is {float(norm)} at step {self.state.global_step + 1}; the weights are unchanged",
                expected="a finite number",
                remedy="Lower lr in [optimizer], or set dtype = 'float32' in [training], and start in a new folder",
            )
        return norm

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log metrics with the mean of each loss since the last log line; ``epoch`` counts passes over the lists."""
        # For transformers, all examples of the training are a single epoch.
        self.state.epoch = self._epochs * self.state.global_step / self.state.max_steps
        if "loss" in logs:
            logs = {**logs, **{f"loss_{name}": float(torch.stack(v).mean()) for name, v in self._loss_values.items()}}
            self._loss_values.clear()
        super().log(logs, start_time)

    def evaluate(self, *_: Any, metric_key_prefix: str = "eval", **__: Any) -> dict[str, float]:
        """Evaluate on held-out data, save the weights if they are the best so far, and return the metrics."""
        self.use_inference_weights()
        values = self._validate() if self._validate else {}
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in values.items()}
        self.log(dict(metrics))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        first, best = next(iter(metrics.values()), None), self.state.best_metric
        if first is not None and (best is None or (first > best if self.args.greater_is_better else first < best)):
            self.save_model(str(self.folder / "best"), _internal_call=True)
            if self.args.should_save:
                write_checksums(self.folder / "best")
        return metrics

    @property
    def _per_step(self) -> int:
        return int(self.args.per_device_train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size)

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        if not self.args.should_save:
            return
        folder = Path(output_dir or self.folder)
        state = cast(Any, self.model).state_dict() if state_dict is None else state_dict
        tensors = {name: value.detach().cpu().contiguous() for name, value in state.items() if name in self._kept}
        with storage_errors():
            folder.mkdir(parents=True, exist_ok=True)
            draft = folder / f"{WEIGHTS}.new"
            safetensors.torch.save_file(tensors, str(draft), {_PER_STEP: str(self._per_step)})
            os.replace(draft, folder / WEIGHTS)

    def load_weights(self, folder: Path) -> None:
        with safetensors.safe_open(str(folder / WEIGHTS), "pt") as file, torch.no_grad():
            if set(stored := file.keys()) != set(self._kept):
                raise DataError(
                    f"The checkpoint {folder.name!r} contains {len(stored)} tensors that do not match this training",
                    expected=f"the {len(self._kept)} tensors that this recipe trains",
                )
            own = cast(Any, self.model).state_dict()
            for name in stored:
                self._copy(own[name], file.get_tensor(name))

    def _copy(self, target: Tensor, value: Tensor) -> None:
        target.copy_(value)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        with safetensors.safe_open(str(Path(resume_from_checkpoint) / WEIGHTS), "pt") as file:
            before = (file.metadata() or {}).get(_PER_STEP, str(self._per_step))
        if before != str(self._per_step):
            raise UsageError(
                f"The training started with {before} lists per step, but would continue with {self._per_step}",
                expected="the same number of processes as before",
                remedy="Start the same number of processes with torchrun, or start in a new folder",
            )
        self.load_weights(Path(resume_from_checkpoint))
        if self.args.should_save:
            # Newer checkpoints are damaged. A process that was killed after it wrote this one may have left older ones.
            draft, step = self.folder / UNFINISHED, int(resume_from_checkpoint.rpartition("-")[2])
            for damaged in (path for path in list_checkpoints(self.folder) if int(path.name[11:]) > step):
                draft.mkdir(exist_ok=True)
                discard_folder(damaged, draft)
            self._remove_old_checkpoints()

    def _get_output_dir(self, trial: Any) -> str:
        return str(self.folder / UNFINISHED)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        with storage_errors():
            super()._save_checkpoint(model, trial)
            self.accelerator.wait_for_everyone()  # each process writes the state of its random generators
            if not self.args.should_save:
                return
            name = f"checkpoint-{self.state.global_step}"
            parent = self.folder / CHECKPOINTS
            parent.mkdir(exist_ok=True)
            write_checksums(self.folder / UNFINISHED / name)
            move_folder(self.folder / UNFINISHED / name, parent / name, keep=lambda _: False)
            self._remove_old_checkpoints()

    def _remove_old_checkpoints(self) -> None:
        """Remove all but the newest checkpoints, moving each away first, so that none is ever incomplete."""
        draft = self.folder / UNFINISHED
        for old in list_checkpoints(self.folder)[: -int(self.args.save_total_limit or 1)]:
            draft.mkdir(exist_ok=True)
            discard_folder(old, draft)


class MetricsWriter(TrainerCallback):
    """Callback that writes metrics as JSON lines to ``path``, and calls ``advance(1)`` after each step.

    A resumed training starts with the metrics in its checkpoint.
    """

    def __init__(self, path: Path, advance: Callable[[int], None]) -> None:
        self._path, self._advance = path, advance

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if not state.is_world_process_zero:
            return
        with replace_text_file(self._path) as file:
            file.writelines(json.dumps({"step": entry["step"], **entry}) + "\n" for entry in state.log_history)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        if state.is_world_process_zero and logs:
            with (
                storage_errors(),
                open(self._path, "a", encoding="utf-8", newline="\n", opener=open_without_links) as file,
            ):
                file.write(json.dumps({"step": state.global_step, **logs}) + "\n")

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._advance(1)


class FinalValidation(TrainerCallback):
    """Callback that validates after the last step, so that the last weights can be selected too."""

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step >= state.max_steps:
            control.should_evaluate = True


class EarlyStopping(TrainerCallback):
    """Callback that ends the training after ``patience`` validations without improvement.

    Lower values are better for the measure ``loss``, higher values for all others. Validations are counted in the log
    history of the trainer, which checkpoints contain.
    """

    def __init__(self, measure: str, patience: int) -> None:
        self._key, self._patience = f"eval_{measure}", patience
        self._best: Callable[[Sequence[float]], float] = min if measure == "loss" else max

    def is_over(self, history: Sequence[Mapping[str, Any]]) -> bool:
        values = [entry[self._key] for entry in history if self._key in entry]
        return bool(values) and len(values) - 1 - values.index(self._best(values)) >= self._patience

    def on_evaluate(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self.is_over(state.log_history):
            control.should_training_stop = True
