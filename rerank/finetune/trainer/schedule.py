"""Which list comes when, and how it is shown that time. Everything follows from the seed and the place alone.

So training that goes on at a place goes on as if it had never stopped. Knows lists, no tokens.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from rerank.finetune.labels.training_list import TrainingList


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """A sequence of training lists.

    Attributes:
        lists: The lists; each comes once an epoch, in an order of its own.
        length: How many places there are.
        documents: Lists are cut to as many, drawn anew each time; those that are shorter stay as they are.
        shuffle: Show documents in random order.
        seed: For all of it.
    """

    lists: Sequence[TrainingList]
    length: int
    documents: int
    shuffle: bool
    seed: int

    def __len__(self) -> int:
        """How many places there are."""
        return self.length

    def __getitem__(self, place: int) -> TrainingList:
        """The list at a place, as it is shown there."""
        epoch, at = divmod(place, len(self.lists))
        chance = random.Random(f"{self.seed}-{place}")
        return _varied(self.lists[_order(self.seed, epoch, len(self.lists))[at]], self.documents, self.shuffle, chance)


@lru_cache(maxsize=4)
def _order(seed: int, epoch: int, count: int) -> tuple[int, ...]:
    return tuple(random.Random(f"{seed}-epoch-{epoch}").sample(range(count), count))


def _varied(given: TrainingList, documents: int, shuffle: bool, chance: random.Random) -> TrainingList:
    kept = list(range(len(given)))
    if len(kept) > documents:
        kept = sorted(chance.sample(kept, documents))
    if shuffle:
        chance.shuffle(kept)
    return pick(given, kept)


def pick(given: TrainingList, kept: Sequence[int]) -> TrainingList:
    """The list with only these documents, shown in this order; the label keeps theirs.

    >>> from rerank.types import Document, Query
    >>> docs = tuple(Document(id=name) for name in "abcd")
    >>> given = TrainingList(query=Query(id="q"), docs=docs, order=(3, 0, 2, 1))
    >>> pick(given, [2, 3]).order
    (1, 0)
    """
    place = {old: new for new, old in enumerate(kept)}
    return replace(
        given,
        docs=tuple(given.docs[at] for at in kept),
        order=tuple(place[at] for at in given.order if at in place),
        scores=tuple(given.scores[at] for at in kept) if given.scores else (),
    )
