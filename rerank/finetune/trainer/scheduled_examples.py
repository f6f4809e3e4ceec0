"""The examples of a training in the order in which they are shown. Imports torch.

The order in which training lists are shown, with random subsets and random orders of their documents.
"""

from __future__ import annotations

import math
import os
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch

from rerank.errors import ContextOverflowError, DataError
from rerank.finetune.labels.training_list import TrainingList
from rerank.finetune.recipe import Recipe
from rerank.finetune.trainer.examples import ExampleBuilder


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


@dataclass(frozen=True, kw_only=True)
class ListSchedule:
    """A sequence of training lists over several epochs.

    Attributes:
        lists: The lists; every epoch visits each of them once, in a new random order.
        length: Length of the sequence.
        documents: Maximum number of documents per list; longer lists are subsampled at every visit.
        best: Number of best documents, according to the label, that every sample contains.
        hard: Number of hard negatives that every sample contains: the documents whose rank in the label is furthest
            below their position in the list. The other documents are drawn at random.
        shuffle: Whether documents are shown in random order; otherwise they keep the order of the list.
        seed: Random seed.
    """

    lists: Sequence[TrainingList]
    length: int
    documents: int
    best: int = 0
    hard: int = 0
    shuffle: bool
    seed: int

    def __len__(self) -> int:
        """Return the number of lists in the sequence, over all epochs."""
        return self.length

    def __getitem__(self, index: int) -> TrainingList:
        """Return the list at an index, with its documents in the order in which they are shown."""
        epoch, offset = divmod(index, len(self.lists))
        rng = random.Random(f"{self.seed}-{index}")
        position = _training_epoch_order(self.seed, epoch, len(self.lists))[offset]
        training_list = self.lists[position]
        positions = list(range(len(training_list)))
        if len(positions) > self.documents:
            kept = _kept_training_documents(training_list, self.best, self.hard)
            others = [position for position in positions if position not in kept]
            positions = sorted([*kept, *rng.sample(others, self.documents - len(kept))])
        if self.shuffle:
            rng.shuffle(positions)
        return select_training_documents(training_list, positions)


@lru_cache(maxsize=4)
def _training_epoch_order(seed: int, epoch: int, count: int) -> tuple[int, ...]:
    return tuple(random.Random(f"{seed}-epoch-{epoch}").sample(range(count), count))


def _kept_training_documents(training_list: TrainingList, best: int, hard: int) -> list[int]:
    """Return the positions of the documents in every sample: the ``best`` best and the ``hard`` hardest negatives."""
    others = sorted(training_list.order[best:])
    ranks = training_list.ranks
    return [*training_list.order[:best], *sorted(others, key=lambda position: position - ranks[position])[:hard]]


def select_training_documents(training_list: TrainingList, positions: Sequence[int]) -> TrainingList:
    """Return the list restricted to the documents at these positions, in this order; their label order is kept.

    >>> from rerank.types import Document, Query
    >>> docs = tuple(Document(id=name) for name in "abcd")
    >>> training_list = TrainingList(query=Query(id="q"), docs=docs, order=(3, 0, 2, 1))
    >>> select_training_documents(training_list, [2, 3]).order
    (1, 0)
    """
    new_position = {old: new for new, old in enumerate(positions)}
    return replace(
        training_list,
        docs=tuple(training_list.docs[position] for position in positions),
        order=tuple(new_position[position] for position in training_list.order if position in new_position),
        scores=tuple(training_list.scores[position] for position in positions) if training_list.scores else (),
    )
