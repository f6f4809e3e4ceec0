"""The lists of a training, and the order in which they are shown, with random subsets and orders of their documents.

All random choices depend only on the seed and the index, so a resumed training continues exactly as if it had not
stopped. This module needs no torch.
"""

from __future__ import annotations

import math
import os
import random
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from rerank.collections import open_collection
from rerank.errors import ContextOverflowError, DataError, UsageError, ensure
from rerank.finetune.labels.files import read_label_lists_of_file
from rerank.finetune.labels.lists import TrainingList
from rerank.finetune.labels.splits import hold_out_lists, normalise_query
from rerank.finetune.recipe import Recipe

if TYPE_CHECKING:
    from rerank.finetune.trainer.examples import ExampleBuilder


@dataclass(frozen=True, kw_only=True)
class ListSchedule:
    """A sequence of training lists over several epochs."""

    lists: Sequence[TrainingList]  #: The lists; every epoch visits each of them once, in a new random order.
    length: int
    documents: int  #: Maximum number of documents per list; longer lists are subsampled at every visit.
    best: int = 0  #: Number of best documents, according to the label, that every sample contains.
    #: Number of hard negatives that every sample contains: those whose rank in the label is furthest below their
    #: position in the list.
    hard: int = 0
    shuffle: bool  #: Whether documents are shown in random order; otherwise they keep the order of the list.
    seed: int

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> TrainingList:
        epoch, offset = divmod(index, len(self.lists))
        rng = random.Random(f"{self.seed}-{index}")
        training_list = self.lists[_epoch_order(self.seed, epoch, len(self.lists))[offset]]
        positions = list(range(len(training_list)))
        if len(positions) > self.documents:
            order, ranks = training_list.order, training_list.ranks
            negatives = sorted(sorted(order[self.best :]), key=lambda position: position - ranks[position])
            kept = [*order[: self.best], *negatives[: self.hard]]
            others = [position for position in positions if position not in kept]
            positions = sorted([*kept, *rng.sample(others, self.documents - len(kept))])
        if self.shuffle:
            rng.shuffle(positions)
        return training_list.take(positions)


@lru_cache(maxsize=4)
def _epoch_order(seed: int, epoch: int, count: int) -> tuple[int, ...]:
    return tuple(random.Random(f"{seed}-epoch-{epoch}").sample(range(count), count))


class ScheduledExamples:
    """Training examples in the order of a schedule, as a data set of torch; an example is built when it is accessed.

    Each of the optimizer ``steps`` uses the same number of examples.
    """

    def __init__(self, schedule: ListSchedule, examples: ExampleBuilder, steps: int) -> None:
        self._schedule, self.examples, self.steps = schedule, examples, steps

    def __len__(self) -> int:
        return len(self._schedule)

    def __getitem__(self, index: int) -> Any:
        return self.examples.make(self._schedule[index])

    @property
    def epochs(self) -> float:
        return len(self._schedule) / len(self._schedule.lists)

    def truncated(self, steps: int) -> ScheduledExamples:
        length = len(self) // self.steps * steps
        return ScheduledExamples(replace(self._schedule, length=length), self.examples, steps)


def schedule_examples(
    recipe: Recipe, lists: Sequence[TrainingList], examples: ExampleBuilder, *, held_out: bool = False
) -> ScheduledExamples:
    """Return the examples in training order, after checking that the largest lists fit in the context.

    With ``held_out``, there is one example per list, whose documents are sampled once for all validations.
    """
    table, data = recipe.training, recipe.data
    lists_per_step = table.batch_size * table.accumulation * int(os.environ.get("WORLD_SIZE", "1"))
    steps = 1 if held_out else table.steps or max(1, math.ceil(table.epochs * len(lists) / lists_per_step))
    schedule = ListSchedule(
        lists=lists,
        length=len(lists) if held_out else steps * lists_per_step,
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


def read_lists(
    recipe: Recipe, pinned: Mapping[str, str] | None = None
) -> tuple[list[TrainingList], list[TrainingList]]:
    """Return the training lists and the held-out lists of a recipe; lists with a single document are skipped.

    ``pinned`` maps the selectors of data sets to those that are read instead, as `pin_hub_datasets` returns them.
    """
    data, table, exact = recipe.data, recipe.validation, pinned or {}
    selectors = [data.collection] * len(data.lists) if isinstance(data.collection, str) else data.collection
    train, held = _read([exact.get(path, path) for path in data.lists], selectors, data.max_lists), []
    if table and table.lists:
        ensure(
            table.documents_in or len(set(selectors)) <= 1,
            "[data] lists several collections, but [validation] does not state the collection of its lists",
            expected="documents_in in [validation]",
        )
        selector = table.documents_in or (data.collection if isinstance(data.collection, str) else selectors[0])
        held = _read([exact.get(path, path) for path in table.lists], [selector] * len(table.lists))
    if table and table.share:
        train, more = hold_out_lists(train, table.share, seed=recipe.seed)
        held += more
    trained = {normalise_query(entry.query.text) for entry in train}
    if leaks := [entry.query.text for entry in held if normalise_query(entry.query.text) in trained]:
        raise DataError(
            f"{len(leaks)} held-out lists have queries that are also in the training lists, such as {leaks[0]!r}",
            expected="lists of other queries",
            remedy="Split the lists by query with `rerank label split`, or use share in [validation]",
        )
    return train, held


def _read(paths: Sequence[str], selectors: Sequence[str], limit: int | None = None) -> list[TrainingList]:
    skipped: Counter[str] = Counter()
    lists: list[TrainingList] = []
    for path, selector in zip(paths, selectors, strict=True):
        lists += read_label_lists_of_file(path, open_collection(selector) if selector else None, skipped=skipped)
    if skipped:
        reasons = ", ".join(f"{count} {reason}" for reason, count in skipped.items())
        warnings.warn(f"Some training lists were skipped: {reasons}", stacklevel=3)
    lists = [training_list for training_list in lists[:limit] if len(training_list) > 1]
    if not paths:
        raise UsageError("data.lists is empty", expected="at least one label file or data set")
    if not lists:
        raise DataError(f"No list in {', '.join(paths)} has two or more documents", expected="at least one such list")
    return lists
