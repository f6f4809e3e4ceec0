"""Which lists are worth training on: by agreement and by length. Knows ids and numbers, no teacher."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rerank.errors import DataError, UsageError, shorten
from rerank.experiment.robustness import kendall_tau

if TYPE_CHECKING:
    from rerank.finetune.labels.lists import LabelList


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """What a list has to be like. Documents are dropped first, then lists.

    Attributes:
        min_tau: Least agreement: Kendall's tau of the label and the list as shown, or of two teachers' labels.
        max_tau: Most agreement: above it a list teaches little but to keep the order.
        min_docs: Fewest documents.
        max_docs: Most documents.
        min_words: Documents of fewer words are dropped from their lists.
        max_words: Documents of more words are dropped from their lists.

    Raises:
        UsageError: Limits that leave nothing between them.
    """

    min_tau: float | None = None
    max_tau: float | None = None
    min_docs: int = 2
    max_docs: int | None = None
    min_words: int | None = None
    max_words: int | None = None

    def __post_init__(self) -> None:
        """Check the limits."""
        for name, low, high in (
            ("tau", self.min_tau, self.max_tau),
            ("docs", self.min_docs, self.max_docs),
            ("words", self.min_words, self.max_words),
        ):
            if low is not None and high is not None and low > high:
                raise UsageError(f"--min-{name} {low} with --max-{name} {high}", expected="a minimum up to the maximum")
        if self.min_docs < 1:
            raise UsageError(f"--min-docs {self.min_docs}", expected="at least 1")
        for name, value in (("--min-tau", self.min_tau), ("--max-tau", self.max_tau)):
            if value is not None and not -1 <= value <= 1:
                raise UsageError(f"{name} {value}", expected="a number from -1 (reversed) to 1 (the same)")

    @property
    def counts_words(self) -> bool:
        """Whether documents' lengths have to be known."""
        return self.min_words is not None or self.max_words is not None

    @property
    def compares(self) -> bool:
        """Whether agreement counts."""
        return self.min_tau is not None or self.max_tau is not None


def filtered(
    labels: Iterable[LabelList],
    wanted: Filter,
    *,
    words: Mapping[str, int] | None = None,
    other: Mapping[str, LabelList] | None = None,
    dropped: Counter[str],
) -> Iterator[LabelList]:
    """The lists that pass.

    Args:
        labels: The lists.
        wanted: What passes.
        words: Document -> its words, where they count.
        other: Query -> another teacher's list; agreement is then that of the two labels, over the documents that both
            have. Without it, it is that of the label and the list as shown.
        dropped: Counts what was dropped, by reason.

    Raises:
        DataError: A document's length is not known.
    """
    for label in labels:
        kept = _by_words(label, wanted, words, dropped) if wanted.counts_words else label
        reason = "too few documents" if kept is None else _reason(kept, wanted, other)
        if reason:
            dropped[f"lists: {reason}"] += 1
        elif kept is not None:
            yield kept


def agreement(label: LabelList, other: LabelList | None = None) -> float | None:
    """Kendall's tau: of label and list as shown, or of two labels over what they share; None below two documents."""
    if other is None:
        return label.tau
    shared = set(label.final) & set(other.final)
    if len(shared) < 2:
        return None
    return kendall_tau([one for one in other.final if one in shared], [one for one in label.final if one in shared])


def _reason(label: LabelList, wanted: Filter, other: Mapping[str, LabelList] | None) -> str:
    """Why a list does not pass; empty if it does."""
    if len(label) < wanted.min_docs:
        return "too few documents"
    if wanted.max_docs is not None and len(label) > wanted.max_docs:
        return "too many documents"
    if not wanted.compares:
        return ""
    if other is not None and label.qid not in other:
        return "the other teacher has none"
    tau = agreement(label, None if other is None else other[label.qid])
    if tau is None:
        return "fewer than two documents to compare"
    if wanted.min_tau is not None and tau < wanted.min_tau:
        return "too little agreement"
    return "too much agreement" if wanted.max_tau is not None and tau > wanted.max_tau else ""


def _by_words(
    label: LabelList, wanted: Filter, words: Mapping[str, int] | None, dropped: Counter[str]
) -> LabelList | None:
    """The list without documents that are too short or too long; None if nothing is left."""
    positions = []
    for at, one in enumerate(label.initial):
        if words is None or one not in words:
            raise DataError(
                f"The length of document {shorten(one)} of query {shorten(label.qid)} is not known",
                expected="a collection that has it",
                remedy="Pass --collection",
            )
        if wanted.min_words is not None and words[one] < wanted.min_words:
            dropped["documents: too short"] += 1
        elif wanted.max_words is not None and words[one] > wanted.max_words:
            dropped["documents: too long"] += 1
        else:
            positions.append(at)
    return label.take(positions) if positions else None
