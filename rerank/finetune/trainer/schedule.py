"""Order of the training lists, with random subsets and random orders of their documents.

All random choices depend only on the seed and the index, so a resumed training continues exactly as if it had not
stopped.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from rerank.finetune.labels.training_list import TrainingList


@dataclass(frozen=True, kw_only=True)
class ListSchedule:
    """A sequence of training lists over several epochs.

    Attributes:
        lists: The lists; every epoch visits each of them once, in a new random order.
        length: Length of the sequence.
        documents: Maximum number of documents per list; longer lists are subsampled at random at every visit.
        shuffle: Show documents in random order.
        seed: Random seed.
    """

    lists: Sequence[TrainingList]
    length: int
    documents: int
    shuffle: bool
    seed: int

    def __len__(self) -> int:
        """Return the length of the sequence."""
        return self.length

    def __getitem__(self, index: int) -> TrainingList:
        """Return the list at an index, with its documents in the order in which they are shown."""
        epoch, offset = divmod(index, len(self.lists))
        rng = random.Random(f"{self.seed}-{index}")
        position = _training_epoch_order(self.seed, epoch, len(self.lists))[offset]
        return _augmented_training_list(self.lists[position], self.documents, self.shuffle, rng)


@lru_cache(maxsize=4)
def _training_epoch_order(seed: int, epoch: int, count: int) -> tuple[int, ...]:
    return tuple(random.Random(f"{seed}-epoch-{epoch}").sample(range(count), count))


def _augmented_training_list(
    training_list: TrainingList, documents: int, shuffle: bool, rng: random.Random
) -> TrainingList:
    positions = list(range(len(training_list)))
    if len(positions) > documents:
        positions = sorted(rng.sample(positions, documents))
    if shuffle:
        rng.shuffle(positions)
    return select_training_documents(training_list, positions)


def select_training_documents(training_list: TrainingList, positions: Sequence[int]) -> TrainingList:
    """Return the list with only the documents at these positions, shown in this order; their label order is kept.

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
