"""Filtering of labelled lists by agreement and size, and augmentation: variants with another input and the same target.

Lists in shuffled orders and of varying length make a model robust to both (RankZephyr, arXiv 2312.02724).
"""

import random
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from rerank.errors import DataError, UsageError, ensure, error_repr
from rerank.experiment.robustness import kendall_tau
from rerank.finetune.labels.lists import LabelList, TrainingList


@dataclass(frozen=True, slots=True, kw_only=True)
class ListFilter:
    """Limits that labelled lists and their documents must meet; None means no limit. Documents are dropped first."""

    #: Minimum agreement: Kendall's tau between the label and the shown order, or between the labels of two teachers.
    min_tau: float | None = None
    #: Maximum agreement; a list with a larger value mainly teaches the model to keep the shown order.
    max_tau: float | None = None
    min_docs: int = 2  #: Minimum number of documents per list; ``max_docs`` is the maximum.
    max_docs: int | None = None
    #: Minimum number of words per document, and ``max_words`` the maximum; other documents are dropped.
    min_words: int | None = None
    max_words: int | None = None

    def __post_init__(self) -> None:
        for name, low, high in (
            ("tau", self.min_tau, self.max_tau),
            ("docs", self.min_docs, self.max_docs),
            ("words", self.min_words, self.max_words),
        ):
            ensure(
                low is None or high is None or low <= high,
                f"--min-{name} is {low}, but --max-{name} is {high}",
                expected="a minimum that does not exceed the maximum",
            )
        ensure(self.min_docs >= 1, f"--min-docs is {self.min_docs}", expected="at least 1")
        for name, value in (("--min-tau", self.min_tau), ("--max-tau", self.max_tau)):
            ensure(
                value is None or -1 <= value <= 1,
                f"{name} is {value}",
                expected="a number from -1 (reversed) to 1 (identical)",
            )

    @property
    def counts_words(self) -> bool:
        return self.min_words is not None or self.max_words is not None

    @property
    def uses_agreement(self) -> bool:
        return self.min_tau is not None or self.max_tau is not None


def filter_labels(
    labels: Iterable[LabelList],
    limits: ListFilter,
    *,
    words: Mapping[str, int] | None = None,
    other: Mapping[str, LabelList] | None = None,
    dropped: Counter[str],
) -> Iterator[LabelList]:
    """Yield the labelled lists that meet the limits, without documents that are too short or too long.

    ``words`` has the number of words of each document id, if document lengths are limited. With ``other``, lists of
    another teacher by query id, the agreement is measured between the two labels, over the documents in both.
    """
    for label in labels:
        remaining = _drop_documents(label, limits, words or {}, dropped) if limits.counts_words else label
        if reason := "too few documents" if remaining is None else _reason_to_drop(remaining, limits, other):
            dropped[f"lists: {reason}"] += 1
        elif remaining is not None:
            yield remaining


def agreement(label: LabelList, other: LabelList | None = None) -> float | None:
    """Return Kendall's tau between label and shown order, or two labels on shared documents; None for fewer than 2."""
    if other is None:
        return label.tau
    shared = set(label.final) & set(other.final)
    if len(shared) < 2:
        return None
    theirs, ours = ([doc_id for doc_id in ranked.final if doc_id in shared] for ranked in (other, label))
    return kendall_tau(theirs, ours)


def _reason_to_drop(label: LabelList, limits: ListFilter, other: Mapping[str, LabelList] | None) -> str:
    if len(label) < limits.min_docs:
        return "too few documents"
    if limits.max_docs is not None and len(label) > limits.max_docs:
        return "too many documents"
    if not limits.uses_agreement:
        return ""
    if other is not None and label.qid not in other:
        return "the other teacher has none"
    if (tau := agreement(label, None if other is None else other[label.qid])) is None:
        return "fewer than two documents to compare"
    if limits.min_tau is not None and tau < limits.min_tau:
        return "too little agreement"
    return "too much agreement" if limits.max_tau is not None and tau > limits.max_tau else ""


def _drop_documents(
    label: LabelList, limits: ListFilter, words: Mapping[str, int], dropped: Counter[str]
) -> LabelList | None:
    positions = []
    for position, doc_id in enumerate(label.initial):
        if doc_id not in words:
            raise DataError(
                f"The length of document {error_repr(doc_id)} of query {error_repr(label.qid)} is unknown",
                expected="a collection that contains the document",
                remedy="Pass --collection",
            )
        if limits.min_words is not None and words[doc_id] < limits.min_words:
            dropped["documents: too short"] += 1
        elif limits.max_words is not None and words[doc_id] > limits.max_words:
            dropped["documents: too long"] += 1
        else:
            positions.append(position)
    return label.take(positions) if positions else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Augmentation:
    """Options for the variants that are created from each list."""

    copies: int = 1  #: Number of variants per list.
    keep: bool = False  #: Whether to yield the unchanged list before its variants.
    shuffle: bool = False  #: Whether to show the documents in random order; otherwise they keep their order.
    docs: int | None = None  #: Maximum number of documents per variant; None for all.
    #: Sample between 2 and ``docs`` documents at random, instead of taking the first ``docs`` documents.
    draw: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        ensure(
            self.shuffle or self.draw or self.docs is not None,
            "No option that changes the lists is given",
            expected="--shuffle, --docs or --draw",
        )
        ensure(
            self.copies >= 1 and (self.docs is None or self.docs >= 2),
            f"--copies is {self.copies} and --docs is {self.docs}",
            expected="at least 1 copy, and at least 2 documents",
        )
        ensure(
            self.copies == 1 or self.shuffle or self.draw,
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
    """Yield the variants of every list, which depend only on the file and the seed; first the list, if ``keep``."""
    for index, label in enumerate(labels):
        if options.keep:
            yield label
        for copy in range(options.copies):
            yield label.take(options.positions(len(label), random.Random(f"{options.seed}/{label.qid}/{index}/{copy}")))


def truncate_texts(training_list: TrainingList, words: int) -> TrainingList:
    """Truncate title and text of every document to at most ``words`` words each; the whitespace between them stays."""
    if words < 1:
        raise UsageError(f"--cut-words is {words}", expected="at least 1")

    def cut(text: str) -> str:
        ends = (match.end() for number, match in enumerate(re.finditer(r"\S+", text), 1) if number == words)
        return text[: next(ends, len(text))]

    docs = tuple(replace(doc, title=cut(doc.title), text=cut(doc.text)) for doc in training_list.docs)
    return replace(training_list, docs=docs)
