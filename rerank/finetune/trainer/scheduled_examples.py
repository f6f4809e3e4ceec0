"""The examples of a training in the order in which they are shown. Imports torch."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from rerank.errors import ContextOverflowError, DataError
from rerank.finetune.labels.training_list import TrainingList
from rerank.finetune.recipe import Recipe
from rerank.finetune.trainer.examples import ExampleBuilder
from rerank.finetune.trainer.schedule import ListSchedule


class ScheduledExamples(torch.utils.data.Dataset[Any]):
    """Training examples in the order of a schedule; each example is built when it is accessed.

    Args:
        schedule: The schedule.
        examples: Builder of examples.
        steps: Number of optimizer steps; every step uses the same number of examples.
    """

    def __init__(self, schedule: ListSchedule, examples: ExampleBuilder, steps: int) -> None:
        """Store the schedule, the builder of examples and the number of steps."""
        self._schedule, self.examples, self.steps = schedule, examples, steps

    def __len__(self) -> int:
        """Return the number of examples."""
        return len(self._schedule)

    @property
    def epochs(self) -> float:
        """Number of passes over the training lists."""
        return len(self._schedule) / len(self._schedule.lists)

    def truncated(self, steps: int) -> ScheduledExamples:
        """Return the examples of the first ``steps`` steps."""
        length = len(self) // self.steps * steps
        return ScheduledExamples(replace(self._schedule, length=length), self.examples, steps)

    def __getitem__(self, index: int) -> Any:
        """Build the example at an index."""
        return self.examples.make(self._schedule[index])


def schedule_training_examples(
    recipe: Recipe, lists: Sequence[TrainingList], examples: ExampleBuilder
) -> ScheduledExamples:
    """Return the examples in training order, after checking that the largest lists fit in the context."""
    table = recipe.training
    lists_per_step = table.batch_size * table.accumulation * int(os.environ.get("WORLD_SIZE", "1"))
    steps = table.steps or max(1, math.ceil(table.epochs * len(lists) / lists_per_step))
    return _schedule_examples(recipe, lists, examples, length=steps * lists_per_step, steps=steps)


def schedule_held_out_examples(
    recipe: Recipe, lists: Sequence[TrainingList], examples: ExampleBuilder
) -> ScheduledExamples:
    """Return one example per held-out list; documents are sampled as in training, but only once for all validations."""
    return _schedule_examples(recipe, lists, examples, length=len(lists), steps=1)


def _schedule_examples(
    recipe: Recipe, lists: Sequence[TrainingList], examples: ExampleBuilder, *, length: int, steps: int
) -> ScheduledExamples:
    data = recipe.data
    schedule = ListSchedule(
        lists=lists,
        length=length,
        documents=data.documents,
        best=data.best,
        hard=data.hard,
        shuffle=data.shuffle,
        seed=recipe.seed,
    )
    longest = max(lists, key=lambda candidate: sum(len(doc.text) for doc in candidate.docs))
    for training_list in (longest, max(lists, key=len)):
        try:
            examples.make(replace(schedule, lists=[training_list], length=1)[0])
        except ContextOverflowError as error:
            raise DataError(f"A list does not fit in the context: {error.found}", remedy=error.remedy) from error
    return ScheduledExamples(schedule, examples, steps)
