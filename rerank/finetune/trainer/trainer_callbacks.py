"""Callbacks of transformers' trainer: metrics file, validation after the last step, early stopping."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from rerank.finetune.trainer.training_folder import training_storage_errors
from rerank.io.text_files import replace_text_file


class MetricsWriter(TrainerCallback):
    """Callback that writes metrics as JSON lines and advances a progress display.

    Args:
        path: Metrics file.
        advance: Function that is called after each step with the number of steps since its last call.
    """

    def __init__(self, path: Path, advance: Callable[[int], None]) -> None:
        """Store the path of the metrics file and the function that advances the progress display."""
        self._path, self._advance = path, advance

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Remove the lines of steps that a resumed training will repeat, and the summaries of earlier processes."""
        if not state.is_world_process_zero:
            return
        lines = self._path.read_text(encoding="utf-8").splitlines() if self._path.exists() else []
        earlier = [line for line in lines if _step_of_metrics_line(line) <= state.global_step]
        with replace_text_file(self._path) as file:
            file.writelines(f"{line}\n" for line in earlier)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        """Write one line of metrics."""
        if state.is_world_process_zero and logs:
            with training_storage_errors(), self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": state.global_step, **logs}) + "\n")

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Advance the progress display."""
        self._advance(1)


def _step_of_metrics_line(line: str) -> float:
    """Return the step of a metrics line; infinity if the line is truncated or is the summary of an earlier process."""
    try:
        values = json.loads(line)
        return math.inf if "train_runtime" in values else float(values["step"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return math.inf


class FinalValidation(TrainerCallback):
    """Callback that validates after the last step, so that the last weights can be selected too."""

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Request a validation if this step is the last step."""
        if state.global_step >= state.max_steps:
            control.should_evaluate = True


class EarlyStopping(TrainerCallback):
    """Callback that ends the training after a number of validations without improvement.

    Validations are counted in the trainer's log history. Checkpoints contain the history, so a resumed training
    continues the count.

    Args:
        measure: Name of the validation measure. Lower values are better for ``loss``, higher values for all others.
        patience: Number of validations without improvement after which the training ends.
    """

    def __init__(self, measure: str, patience: int) -> None:
        """Store measure and patience."""
        self._key, self._patience = f"eval_{measure}", patience
        self._best: Callable[[Sequence[float]], float] = min if measure == "loss" else max

    def is_over(self, history: Sequence[Mapping[str, Any]]) -> bool:
        """Return whether the training should end, given its log history."""
        values = [entry[self._key] for entry in history if self._key in entry]
        return bool(values) and len(values) - 1 - values.index(self._best(values)) >= self._patience

    def on_evaluate(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Stop the training after ``patience`` validations without improvement."""
        if self.is_over(state.log_history):
            control.should_training_stop = True
