"""A recipe from its first line to an adapter with its card. Knows the order of things; the parts do the work.

Torch and transformers are imported when a training begins.
"""

from __future__ import annotations

import resource
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from rerank.collections import open_collection
from rerank.errors import DataError
from rerank.finetune.labels.training_list import TrainingList
from rerank.finetune.parts import RunsOnSome
from rerank.finetune.recipe import MethodTable, Parts, Recipe
from rerank.finetune.trainer.examples import Looks
from rerank.judges import Asking, Limits, open_judge
from rerank.methods import Method, open_method
from rerank.models import prompt_for, resolve
from rerank.prompts import load_prompt
from rerank.tasks import Backend

#: As `rerank.progress.progress`.
Progress = Callable[[str, int, int], AbstractContextManager[Callable[[int], None]]]

#: What the process that leads knows of a training.
_LED = ("steps", "loss", "trainable", "state_mb", "tokens")


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """The method that is trained for, opened once for a backend.

    Attributes:
        method: Its card.
        prompt: Name or path of its prompt.
        limits: Its token budget.
    """

    method: Method
    prompt: str
    limits: Limits

    @classmethod
    def of(cls, table: MethodTable, model: str) -> Asked:
        """Open the card; see `open_method` for errors."""
        method = open_method(table.method)
        own = method.own_prompt if table.prompt == "auto" else ""
        limits = Limits(
            min_passage_tokens=table.min_passage_tokens,
            max_passage_tokens=table.max_passage_tokens,
            context_size=table.context_size,
        )
        return cls(method=method, prompt=own or prompt_for(model, table.prompt), limits=limits)

    def judge(self, backend: Backend, options: str = "") -> Asking:
        """The judge, with further options."""
        selector = self.method.with_options(options).judge_selector
        return open_judge(selector, backend, load_prompt(self.prompt), self.limits)


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What came of a training.

    Attributes:
        folder: Where the adapter lies.
        steps: Optimizer steps.
        loss: Mean of the training loss over the last line of the metrics.
        validation: The deciding measure at its best; empty without validation.
        first_stage: The same of the candidates as they were.
        seconds: Wall time of this process.
        peak_mb: Most memory that it held: of the GPU where there is one, else of the process, MiB.
        trainable: How many numbers trained.
        state_mb: What the optimizer keeps, MiB.
        tokens: Tokens read in this process.
    """

    folder: str
    steps: int
    loss: float
    validation: dict[str, float]
    first_stage: dict[str, float]
    seconds: float
    peak_mb: float
    trainable: int
    state_mb: float
    tokens: int


def looks_of(recipe: Recipe, parts: Parts) -> Looks:
    """What the losses look at."""
    sources = {
        named.on or "logits" for named, loss in zip(recipe.losses, parts.losses, strict=True) if loss.of == "scores"
    }
    return Looks(
        tokens=any(loss.of == "tokens" for loss in parts.losses),
        logits="logits" in sources,
        attention=bool(sources - {"logits"}),
    )


def read_data(recipe: Recipe) -> list[TrainingList]:
    """The lists of a recipe.

    Raises:
        DataError: There are none, or a file is wrong.
    """
    from rerank.finetune.labels.reading import read_lists

    data = recipe.data
    selectors = [data.collection] * len(data.lists) if isinstance(data.collection, str) else data.collection
    skipped: Counter[str] = Counter()
    lists: list[TrainingList] = []
    for path, selector in zip(data.lists, selectors, strict=True):
        collection = open_collection(selector) if selector else None
        lists += read_lists(path, collection, skipped=skipped)
    if skipped:
        said = ", ".join(f"{count} {reason}" for reason, count in skipped.items())
        warnings.warn(f"Training lists that were left out: {said}", stacklevel=2)
    lists = [one for one in lists[: data.max_lists] if len(one) > 1]
    if not lists:
        raise DataError(
            f"No list of two documents or more in {', '.join(data.lists)}", expected="at least one to learn from"
        )
    return lists


def train(
    recipe: Recipe,
    folder: Path,
    *,
    resume: bool = False,
    device: str = "auto",
    progress: Progress = lambda title, total, done: nullcontext(lambda steps: None),
) -> Result:
    """Train, and leave the adapter with its card in a folder.

    Args:
        recipe: What to do.
        folder: Where; checkpoints and metrics go there too.
        resume: Go on from the last whole checkpoint, if there is one.
        device: Torch device.
        progress: Given what is counted, how much there is and how much is done, a context whose function is told of
            steps.

    Raises:
        UsageError: The recipe does not make sense, or the folder holds another training.
        DataError: The data are wrong, or none of them fits the model's context.
        BackendError: The model fails, runs out of memory, or gives what is no number.
        StorageError: The disk is full; what was written before stays.
    """
    parts = recipe.parts()
    if isinstance(parts.adapter, RunsOnSome):
        parts.adapter.check_machine()
    resolve(recipe.model)  # a model that is not there is found before the data are read
    from rerank.finetune.trainer.run import Run  # brings torch

    started = time.monotonic()
    run: Run = (parts.objective.run if parts.objective else Run)(recipe, parts, folder, device=device)
    with run.guarded(), _together():
        run.train(resume=resume, progress=progress)
    found = run.outcome()
    if not found:  # a process that only lent a hand
        found = dict.fromkeys(_LED, 0) | {"validation": {}, "first_stage": {}}
    return Result(folder=str(folder), seconds=round(time.monotonic() - started, 1), peak_mb=peak_mb(), **found)


@contextmanager
def _together() -> Iterator[None]:
    """Let processes that train together part in order; otherwise their threads may still talk when they end."""
    import torch.distributed

    try:
        yield
    finally:
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


def peak_mb() -> float:
    """Most memory held so far, MiB: of the GPU where there is one, else of this process."""
    import torch

    if torch.cuda.is_available():
        return round(torch.cuda.max_memory_allocated() / 2**20, 1)
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit, 1)
