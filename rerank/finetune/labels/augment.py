"""Augmentation of labelled lists: variants with a shuffled, subsampled or truncated input and the same target order.

RankZephyr (Pradeep et al. 2023, arXiv 2312.02724) is trained on lists in shuffled orders and of varying length, which
makes it robust to both. Random numbers depend on the seed, the query and the index in the file, so that the same file
always yields the same variants.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from rerank.errors import UsageError
from rerank.finetune.labels.label_list import LabelList
from rerank.finetune.labels.training_list import TrainingList
from rerank.types import Document

_WORD = re.compile(r"\S+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Augmentation:
    """Options for the variants that are created from each list.

    Attributes:
        copies: Number of variants per list.
        keep: Whether to yield the unchanged list before its variants.
        shuffle: Whether to show the documents in random order; otherwise they keep their order.
        docs: Maximum number of documents per variant; None for all.
        draw: Whether to sample the documents of a variant at random; the number of documents is drawn uniformly from 2
            to ``docs``. If False, the first ``docs`` documents are used.
        seed: Random seed.
    """

    copies: int = 1
    keep: bool = False
    shuffle: bool = False
    docs: int | None = None
    draw: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        """Check that the options change the lists, that copies differ, and that numbers are in range."""
        if not (self.shuffle or self.draw or self.docs is not None):
            raise UsageError("No option that changes the lists is given", expected="--shuffle, --docs or --draw")
        if self.copies < 1 or (self.docs is not None and self.docs < 2):
            raise UsageError(
                f"--copies is {self.copies} and --docs is {self.docs}",
                expected="at least 1 copy, and at least 2 documents",
            )
        if self.copies > 1 and not (self.shuffle or self.draw):
            raise UsageError(
                f"--copies {self.copies} would create identical copies",
                expected="--shuffle or --draw, or a single copy",
            )

    def positions(self, count: int, rng: random.Random) -> list[int]:
        """Return the positions of the documents of one variant of a list with ``count`` documents, in shown order."""
        most = count if self.docs is None else min(self.docs, count)
        if self.draw and count > 1:
            chosen = sorted(rng.sample(range(count), rng.randint(2, most)))
        else:
            chosen = list(range(most))
        if self.shuffle:
            rng.shuffle(chosen)
        return chosen


def augment_lists(labels: Iterable[LabelList], options: Augmentation) -> Iterator[LabelList]:
    """Yield the variants of every list, after the unchanged list if ``keep`` is set."""
    for index, label in enumerate(labels):
        if options.keep:
            yield label
        for copy in range(options.copies):
            rng = random.Random(f"{options.seed}/{label.qid}/{index}/{copy}")
            yield label.take(options.positions(len(label), rng))


def truncate_training_texts(training_list: TrainingList, words: int) -> TrainingList:
    """Truncate title and text of every document to at most ``words`` words each."""
    if words < 1:
        raise UsageError(f"--cut-words is {words}", expected="at least 1")
    return replace(training_list, docs=tuple(_truncate_training_document(doc, words) for doc in training_list.docs))


def _truncate_training_document(doc: Document, words: int) -> Document:
    return replace(
        doc, title=first_words_of_training_text(doc.title, words), text=first_words_of_training_text(doc.text, words)
    )


def first_words_of_training_text(text: str, count: int) -> str:
    """Return the first ``count`` words of a text, with the original whitespace.

    >>> first_words_of_training_text("one  two three", 2)
    'one  two'
    """
    for number, word in enumerate(_WORD.finditer(text), 1):
        if number == count:
            return text[: word.end()]
    return text
