"""Filtering of labelled lists by agreement of the label with the shown order or another label, and by size."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rerank.errors import DataError, UsageError, error_repr
from rerank.experiment.robustness import kendall_tau

if TYPE_CHECKING:
    from rerank.finetune.labels.label_list import LabelList


@dataclass(frozen=True, slots=True, kw_only=True)
class ListFilter:
    """Limits that labelled lists and their documents must meet. Documents are dropped first, then lists.

    Attributes:
        min_tau: Minimum agreement: Kendall's tau between the label and the shown order, or between the labels of two
            teachers.
        max_tau: Maximum agreement; a list with a larger value mainly teaches the model to keep the shown order.
        min_docs: Minimum number of documents per list.
        max_docs: Maximum number of documents per list. In all fields except ``min_docs``, None means no limit.
        min_words: Minimum number of words per document; shorter documents are dropped from their lists.
        max_words: Maximum number of words per document; longer documents are dropped from their lists.
    """

    min_tau: float | None = None
    max_tau: float | None = None
    min_docs: int = 2
    max_docs: int | None = None
    min_words: int | None = None
    max_words: int | None = None

    def __post_init__(self) -> None:
        """Check that the limits are in range, and that no minimum exceeds its maximum."""
        for name, low, high in (
            ("tau", self.min_tau, self.max_tau),
            ("docs", self.min_docs, self.max_docs),
            ("words", self.min_words, self.max_words),
        ):
            if low is not None and high is not None and low > high:
                raise UsageError(
                    f"--min-{name} is {low}, but --max-{name} is {high}",
                    expected="a minimum that does not exceed the maximum",
                )
        if self.min_docs < 1:
            raise UsageError(f"--min-docs is {self.min_docs}", expected="at least 1")
        for name, value in (("--min-tau", self.min_tau), ("--max-tau", self.max_tau)):
            if value is not None and not -1 <= value <= 1:
                raise UsageError(f"{name} is {value}", expected="a number from -1 (reversed) to 1 (identical)")

    @property
    def counts_words(self) -> bool:
        """True if document lengths are limited, so that the number of words of each document is needed."""
        return self.min_words is not None or self.max_words is not None

    @property
    def uses_agreement(self) -> bool:
        """True if ``min_tau`` or ``max_tau`` is set, so that Kendall's tau of each list is needed."""
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

    Args:
        labels: The lists.
        limits: The limits.
        words: Mapping from document ids to numbers of words; required if document lengths are limited.
        other: Mapping from query ids to lists of another teacher. If given, the agreement is measured between the two
            labels, over the documents in both; otherwise between the label and the shown order.
        dropped: Counter to which dropped documents and lists are added, by reason.
    """
    for label in labels:
        remaining = _label_without_wrong_lengths(label, limits, words, dropped) if limits.counts_words else label
        reason = "too few documents" if remaining is None else _why_label_is_dropped(remaining, limits, other)
        if reason:
            dropped[f"lists: {reason}"] += 1
        elif remaining is not None:
            yield remaining


def training_label_agreement(label: LabelList, other: LabelList | None = None) -> float | None:
    """Return Kendall's tau between label and shown order, or between two labels over their shared documents.

    The result is None if there are fewer than two documents to compare.
    """
    if other is None:
        return label.tau
    shared = set(label.final) & set(other.final)
    if len(shared) < 2:
        return None
    orders = ([doc_id for doc_id in ranked.final if doc_id in shared] for ranked in (other, label))
    return kendall_tau(next(orders), next(orders))


def _why_label_is_dropped(label: LabelList, limits: ListFilter, other: Mapping[str, LabelList] | None) -> str:
    """Return the reason why a list is dropped; empty if it is kept."""
    if len(label) < limits.min_docs:
        return "too few documents"
    if limits.max_docs is not None and len(label) > limits.max_docs:
        return "too many documents"
    if not limits.uses_agreement:
        return ""
    if other is not None and label.qid not in other:
        return "the other teacher has none"
    tau = training_label_agreement(label, None if other is None else other[label.qid])
    if tau is None:
        return "fewer than two documents to compare"
    if limits.min_tau is not None and tau < limits.min_tau:
        return "too little agreement"
    return "too much agreement" if limits.max_tau is not None and tau > limits.max_tau else ""


def _label_without_wrong_lengths(
    label: LabelList, limits: ListFilter, words: Mapping[str, int] | None, dropped: Counter[str]
) -> LabelList | None:
    """Return the list without documents that are too short or too long; None if no document is left."""
    positions = []
    for position, doc_id in enumerate(label.initial):
        if words is None or doc_id not in words:
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
