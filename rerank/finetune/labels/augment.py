"""Variants of labelled lists: other orders, fewer documents, shorter texts. The label keeps its order throughout.

RankZephyr (Pradeep et al. 2023, arXiv 2312.02724) is trained on lists in shuffled orders and of varying length, which
makes it indifferent to both. Everything is drawn from the seed, the query and the place in the file, so that the same
file gives the same variants.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from rerank.errors import UsageError
from rerank.finetune.labels.lists import LabelList
from rerank.finetune.labels.training_list import TrainingList
from rerank.types import Document

_WORD = re.compile(r"\S+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Variants:
    """What is made of each list.

    Attributes:
        copies: How many variants.
        keep: Whether the list itself comes first, as it is.
        shuffle: Whether documents are shown in an order drawn by chance.
        docs: Most documents of a variant; None for as many as there are.
        draw: Whether documents are drawn by chance, and their number too, from 2 to ``docs``; else the first ``docs``
            are taken.
        seed: For all that is drawn.

    Raises:
        UsageError: Variants that would be no variants, or numbers out of range.
    """

    copies: int = 1
    keep: bool = False
    shuffle: bool = False
    docs: int | None = None
    draw: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        """Check that something is asked for."""
        if not (self.shuffle or self.draw or self.docs is not None):
            raise UsageError("Variants that change nothing", expected="--shuffle, --docs or --draw")
        if self.copies < 1 or (self.docs is not None and self.docs < 2):
            raise UsageError(
                f"--copies {self.copies} with --docs {self.docs}", expected="at least 1 copy, and at least 2 documents"
            )
        if self.copies > 1 and not (self.shuffle or self.draw):
            raise UsageError(f"--copies {self.copies} without chance", expected="--shuffle or --draw, or one copy")

    def positions(self, count: int, chance: random.Random) -> list[int]:
        """Which of ``count`` documents are shown, and in which order."""
        most = count if self.docs is None else min(self.docs, count)
        if self.draw and count > 1:
            chosen = sorted(chance.sample(range(count), chance.randint(2, most)))
        else:
            chosen = list(range(most))
        if self.shuffle:
            chance.shuffle(chosen)
        return chosen


def varied(labels: Iterable[LabelList], wanted: Variants) -> Iterator[LabelList]:
    """The variants of every list."""
    for place, label in enumerate(labels):
        if wanted.keep:
            yield label
        for copy in range(wanted.copies):
            chance = random.Random(f"{wanted.seed}/{label.qid}/{place}/{copy}")
            yield label.take(wanted.positions(len(label), chance))


def cut_texts(one: TrainingList, words: int) -> TrainingList:
    """The list with every document's text cut after so many words, title and body each; all of them alike.

    Raises:
        UsageError: ``words`` is below 1.
    """
    if words < 1:
        raise UsageError(f"--cut-words {words}", expected="at least 1")
    return replace(one, docs=tuple(_cut(doc, words) for doc in one.docs))


def _cut(doc: Document, words: int) -> Document:
    return replace(doc, title=first_words(doc.title, words), text=first_words(doc.text, words))


def first_words(text: str, count: int) -> str:
    """The beginning of a text, white space as it is.

    >>> first_words("one  two three", 2)
    'one  two'
    """
    for number, word in enumerate(_WORD.finditer(text), 1):
        if number == count:
            return text[: word.end()]
    return text
