"""transformers' trainer with our data, losses, optimizers and checkpoints. Imports torch at its top.

What it changes: batches come in the order of a `Schedule`; optimizers are our parts; checkpoints hold what trains, as
safetensors, and are either whole or not there; validation is the real ranker; what is no number ends the training.
"""

from __future__ import annotations

import errno
import json
import math
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import safetensors.torch
import torch
from torch import Tensor
from torch.utils.data import SequentialSampler
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from rerank.errors import BackendError, DataError, StorageError, UsageError
from rerank.finetune.optimizers.base import Optimizer
from rerank.finetune.trainer.examples import Examples
from rerank.finetune.trainer.module import Listwise, collate
from rerank.finetune.trainer.schedule import Schedule
from rerank.finetune.trainer.weight_sharding import average
from rerank.io.text_files import replace_text

#: What trains, in a checkpoint.
WEIGHTS = "trained.safetensors"
METRICS = "metrics.jsonl"
_CHECKPOINTS = "checkpoints"
_UNFINISHED = ".unfinished"
#: Key of a checkpoint's metadata: how many lists a step has, over all processes.
_PER_STEP = "lists_per_step"
_DISK = ("write", "No space", "I/O", os.strerror(errno.ENOSPC))


class Places(torch.utils.data.Dataset[Any]):
    """The examples of a schedule, made when they are asked for."""

    def __init__(self, schedule: Schedule, examples: Examples) -> None:
        """Keep both."""
        self._schedule, self.examples = schedule, examples

    def __len__(self) -> int:
        """How many places there are."""
        return len(self._schedule)

    def until(self, length: int) -> Places:
        """The first so many."""
        return Places(replace(self._schedule, length=length), self.examples)

    def __getitem__(self, place: int) -> Any:
        """The example at a place."""
        return self.examples.make(self._schedule[place])


class ListTrainer(Trainer):
    """The trainer.

    Args:
        module: What is trained.
        args: transformers' settings; its ``output_dir`` is the training's folder.
        places: What is learnt from.
        optimizer: What steps.
        kept: Names of the tensors that a checkpoint has to hold.
        validate: Ranks the validation collection and returns its measures, the deciding one first; None for none.
    """

    #: Whether processes share out weights.
    _shares = False

    def __init__(
        self,
        module: Listwise,
        args: TrainingArguments,
        places: Places,
        *,
        optimizer: Optimizer,
        kept: Sequence[str],
        validate: Callable[[], dict[str, float]] | None = None,
    ) -> None:
        """Set transformers' trainer up."""
        super().__init__(
            model=module, args=args, train_dataset=places, eval_dataset=[] if validate else None, data_collator=collate
        )
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            raise UsageError(
                "The environment asks accelerate for FSDP or DeepSpeed, which share out what trains, too",
                expected="processes that torchrun alone started",
                remedy="Share out the frozen weights with fsdp = true in [training]",
            )
        self._shares = module.shared_out
        if self._shares:  # accelerate's wrapper for several processes takes no such weights; `average` stands in
            self.accelerator.prepare_model = partial(self.accelerator.prepare_model, evaluation_mode=True)
        self.remove_callback(PrinterCallback)
        self._part, self._kept, self._validate = optimizer, frozenset(kept), validate
        self._parts: dict[str, list[Tensor]] = {}
        self.tokens = 0
        self.folder = Path(str(args.output_dir))

    def create_optimizer(self, model: Any = None) -> Any:
        """Our part builds it."""
        if self.optimizer is None:
            decay = float(self.args.weight_decay)
            self.optimizer = self._part.build(self.model, lr=self.args.learning_rate, weight_decay=decay)
        return self.optimizer

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        return SequentialSampler(cast(Any, self.train_dataset))

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The module computes it; its parts are kept for the metrics."""
        out = model(**inputs)
        self.tokens += inputs["ids"].numel()
        for name, value in out["parts"].items():
            self._parts.setdefault(name, []).append(value)
        return (out["loss"], out) if return_outputs else out["loss"]

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Any:
        """One batch; after the last of a step, processes that share out weights come to one gradient."""
        loss = super().training_step(model, inputs, num_items_in_batch)
        if self._shares and self.accelerator.sync_gradients:
            average(cast(Listwise, self.model))
        return loss

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        norm = super()._get_grad_norm(model, grad_norm)  # type: ignore[no-untyped-call]
        if not torch.isfinite(torch.as_tensor(norm)):
            raise BackendError(
                f"The gradient is {float(norm)} at step {self.state.global_step + 1}, and the weights are untouched",
                expected="finite numbers",
                remedy="Take a lower learning rate, or dtype = 'float32' in [training], and begin in a new folder",
            )
        return norm

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the means of the losses since the last line."""
        if "loss" in logs:
            logs = {**logs, **{f"loss_{name}": float(torch.stack(v).mean()) for name, v in self._parts.items()}}
            self._parts.clear()
        super().log(logs, start_time)

    def evaluate(self, *_: Any, metric_key_prefix: str = "eval", **__: Any) -> dict[str, float]:
        """Rank the validation collection; keep what is best so far."""
        found = self._validate() if self._validate else {}
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in found.items()}
        self.log(dict(metrics))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        first = next(iter(metrics.values()), None)
        if first is not None and (self.state.best_metric is None or first > self.state.best_metric):
            self._save(str(self.folder / "best"))
        return metrics

    # Checkpoints

    @property
    def _per_step(self) -> int:
        """How many lists a step has, over all processes."""
        return int(self.args.per_device_train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size)

    def _tensors(self, state: dict[str, Tensor] | None) -> dict[str, Tensor]:
        whole = cast(Any, self.model).state_dict() if state is None else state
        return {name: value.detach().cpu().contiguous() for name, value in whole.items() if name in self._kept}

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        if not self.args.should_save:
            return
        folder = Path(output_dir or self.folder)
        with written_whole():
            folder.mkdir(parents=True, exist_ok=True)
            draft = folder / f"{WEIGHTS}.new"
            safetensors.torch.save_file(self._tensors(state_dict), str(draft), {_PER_STEP: str(self._per_step)})
            os.replace(draft, folder / WEIGHTS)

    def load_weights(self, folder: Path) -> None:
        """Put the tensors of a checkpoint into the module.

        Raises:
            DataError: They are not those of this training.
        """
        found = safetensors.torch.load_file(str(folder / WEIGHTS))
        if set(found) != set(self._kept):
            raise DataError(f"The checkpoint {folder.name!r} holds other tensors than this training trains")
        own = cast(Any, self.model).state_dict()
        with torch.no_grad():
            for name, value in found.items():
                own[name].copy_(value)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        with safetensors.safe_open(str(Path(resume_from_checkpoint) / WEIGHTS), "pt") as file:
            before = (file.metadata() or {}).get(_PER_STEP, str(self._per_step))
        if before != str(self._per_step):
            raise UsageError(
                f"The training was begun with {before} lists a step and goes on with {self._per_step}",
                expected="as many processes as before",
                remedy="Start as many with torchrun, or begin in a new folder",
            )
        self.load_weights(Path(resume_from_checkpoint))

    def _get_output_dir(self, trial: Any) -> str:
        return str(self.folder / _UNFINISHED)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Write a checkpoint beside its place, and move it there when it is whole."""
        with written_whole():
            super()._save_checkpoint(model, trial)
            self.accelerator.wait_for_everyone()  # each process writes its own generators' state there
            if not self.args.should_save:
                return
            name = f"checkpoint-{self.state.global_step}"
            where = self.folder / _CHECKPOINTS
            where.mkdir(exist_ok=True)
            if (where / name).exists():
                shutil.rmtree(where / name)
            os.replace(self.folder / _UNFINISHED / name, where / name)
            for old in checkpoints(self.folder)[: -int(self.args.save_total_limit or 1)]:
                shutil.rmtree(old)


class Metrics(TrainerCallback):
    """Writes what the trainer logs, a JSON object a line; tells a progress bar about steps."""

    def __init__(self, path: Path, advance: Callable[[int], None]) -> None:
        """Keep where to write and whom to tell."""
        self._path, self._advance = path, advance

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Forget lines of steps that will come again."""
        if not state.is_world_process_zero:
            return
        lines = self._path.read_text(encoding="utf-8").splitlines() if self._path.exists() else []
        kept = [line for line in lines if _step(line) <= state.global_step]
        with replace_text(self._path) as file:
            file.writelines(f"{line}\n" for line in kept)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        """Write a line."""
        if state.is_world_process_zero and logs:
            with written_whole(), self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": state.global_step, **logs}) + "\n")

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """One more."""
        self._advance(1)


def _step(line: str) -> float:
    """The step of a line of the metrics; of one that was cut off, a step that never comes."""
    try:
        return float(json.loads(line)["step"])
    except ValueError:
        return math.inf


class LastLook(TrainerCallback):
    """Has the last step validated, so that no step is thrown away unseen."""

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Look where the training ends."""
        if state.global_step >= state.max_steps:
            control.should_evaluate = True


class Patience(TrainerCallback):
    """Ends the training after so many validations without a better value.

    How long there was none is read off the trainer's history, so that a resumed training counts on.
    """

    def __init__(self, measure: str, patience: int) -> None:
        """Keep both."""
        self._key, self._patience = f"eval_{measure}", patience

    def ended(self, history: Sequence[Mapping[str, Any]]) -> bool:
        """Whether the training ends with this history."""
        seen = [entry[self._key] for entry in history if self._key in entry]
        return bool(seen) and len(seen) - 1 - seen.index(max(seen)) >= self._patience

    def on_evaluate(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Look back."""
        if self.ended(state.log_history):
            control.should_training_stop = True


def checkpoints(folder: Path) -> list[Path]:
    """The whole checkpoints of a training, the oldest first."""
    found = (folder / _CHECKPOINTS).glob("checkpoint-*") if folder.is_dir() else ()
    return sorted(found, key=lambda path: int(path.name.rpartition("-")[2]))


@contextmanager
def written_whole() -> Iterator[None]:
    """A full or failing disk becomes an error of ours; what was whole before stays as it is.

    Raises:
        StorageError: It did.
    """
    try:
        yield
    except (OSError, RuntimeError, safetensors.SafetensorError) as error:
        # torch and safetensors report a failing disk as errors of their own, in words.
        if not isinstance(error, OSError) and not any(word in str(error) for word in _DISK):
            raise
        raise StorageError(
            f"The training's files could not be written: {error}",
            remedy="Make room on the disk, then go on with --resume; earlier checkpoints are whole",
        ) from error
