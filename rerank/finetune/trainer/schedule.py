"""The order in which training lists are shown, with random subsets and random orders of their documents.

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
