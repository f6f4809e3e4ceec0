"""Long documents judged in passages: each is cut up, the passages are ranked, and their ranks say where it stands.

Knows texts and ranks, not who judges passages or which windows they stand in.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Literal, Protocol, get_args

from rerank.errors import UnknownNameError, UsageError
from rerank.selector import Selector
from rerank.types import Document, Ranking

Aggregate = Literal["max", "first", "sum"]

#: Scripts written without spaces (Thai, Lao, Myanmar, Khmer, kana, Han): a character counts as a word there.
_UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    "\U00020000-\U0003ffff"
)
_WORD = re.compile(f"[{_UNSPACED}]|[^\\s{_UNSPACED}]+")


class Cutting(Protocol):
    """Something that takes lists of documents apart and puts them together again."""

    def expand(self, ranking: Ranking) -> Ranking:
        """The passages of all documents of a list, in its order."""

    def collect(self, given: Ranking, passages: Ranking) -> Ranking:
        """The documents of ``given`` in the order that a ranking of their passages means."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Passages:
    """How documents are cut, and what the ranks of its passages make of a document.

    A passage is ``size`` words with the white space between them, and the next one starts ``stride`` words further on,
    until one reaches the end. Each keeps its document's title and first-stage score, and is named ``ID#1``, ``ID#2``
    and so on. A document no longer than a passage is one, and one without text too, so every document is judged.

    The passage at rank r counts 1/r, what this package gives for a place everywhere. ``max``: a document counts as much
    as its best passage. ``first``: only the beginning of each document is judged, which takes no more calls than
    truncation. ``sum``: its passages count together, which favours long documents. They are MaxP, FirstP and SumP of
    Dai and Callan (SIGIR 2019, arXiv 1905.09217), there with scores. Equal documents keep the given order.

    Attributes:
        aggregate: ``max``, ``first`` or ``sum``.
        size: Words of a passage; of scripts without spaces, characters.
        stride: How many words further on the next one starts.

    Raises:
        UsageError: Not ``0 < stride <= size``, so that words would be left out.
    """

    aggregate: Aggregate = "max"
    size: int = 150
    stride: int = 75

    def __post_init__(self) -> None:
        """Check the options."""
        if self.aggregate not in get_args(Aggregate):
            raise UnknownNameError("aggregate of passages", self.aggregate, get_args(Aggregate))
        if not 0 < self.stride <= self.size:
            raise UsageError(
                f"Passages of {self.size} words, one every {self.stride}",
                expected="0 < stride <= size, so that no word is left out",
            )

    @classmethod
    def parse(cls, text: str) -> Passages:
        """Read ``AGGREGATE,size=WORDS,stride=WORDS``; a stride that is not given is half the size.

        >>> Passages.parse("sum,size=100")
        Passages(aggregate='sum', size=100, stride=50)

        Raises:
            UnknownNameError: No such aggregate or option; the message suggests the nearest.
            UsageError: A value that does not fit.
        """
        selector = Selector.parse(text)
        if selector.name not in get_args(Aggregate):
            raise UnknownNameError("aggregate of passages", selector.name, get_args(Aggregate))
        for key in selector.options:
            if key not in ("size", "stride"):
                raise UnknownNameError("option of passages", key, ("size", "stride"))
        size = _count("size", selector.options.get("size", "150"))
        stride = _count("stride", selector.options.get("stride", str(max(1, size // 2))))
        if selector.argument:
            raise UsageError(f"{text!r}", expected=f"{selector.name},size={size},stride={stride}")
        return cls(aggregate=selector.name, size=size, stride=stride)  # type: ignore[arg-type]  # looked up above

    def cut(self, document: Document) -> tuple[Document, ...]:
        """The passages of a document that are judged, at least one."""
        words = [match.span() for match in _WORD.finditer(document.text)]
        starts = range(0, max(1, len(words) - self.size + self.stride), self.stride)
        if self.aggregate == "first":
            starts = starts[:1]
        texts = [
            document.text[words[start][0] : words[min(start + self.size, len(words)) - 1][1]] if words else ""
            for start in starts
        ]
        return tuple(named(document, number, text) for number, text in enumerate(texts, 1))

    def expand(self, ranking: Ranking) -> Ranking:
        """The passages of all documents of a list, in its order."""
        return spread(ranking, self.cut)

    def collect(self, given: Ranking, passages: Ranking) -> Ranking:
        """The documents of ``given``, ordered by what their passages' ranks count.

        Where the passages stand as they were cut, nothing was said about them, and ``given`` comes back: else ``sum``
        would put long documents first although no one judged them better.
        """
        places = {doc.id: place for place, doc in enumerate(given.docs)}
        marks = [(places[doc.part_of], int(doc.id.rpartition("#")[2])) for doc in passages.docs]
        if marks == sorted(marks):
            return given
        counts: dict[int, list[float]] = {place: [] for place in range(len(given))}
        for rank, (place, _) in enumerate(marks, 1):
            counts[place].append(1 / rank)
        value = math.fsum if self.aggregate == "sum" else max
        order = sorted(counts, key=lambda place: value(counts[place]), reverse=True)  # stable: ties stay as given
        return given.reorder(0, tuple(order))


def named(document: Document, number: int, text: str) -> Document:
    """A passage of a document."""
    return replace(document, id=f"{document.id}#{number}", text=text, part_of=document.id)


def spread(ranking: Ranking, cut: Callable[[Document], Iterable[Document]]) -> Ranking:
    """A list of documents as the list of their passages, which have the scores of their documents."""
    pairs = [(part, score) for doc, score in zip(ranking.docs, ranking.scores, strict=True) for part in cut(doc)]
    return Ranking(ranking.query, tuple(part for part, _ in pairs), tuple(score for _, score in pairs))


def _count(name: str, given: str) -> int:
    try:
        return int(given)
    except ValueError as error:
        raise UsageError(f"Passages with {name}={given!r}", expected="a whole number of words, such as 150") from error
