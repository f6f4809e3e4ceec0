"""Passage-level reranking of long documents, which are split into passages whose ranks are then aggregated."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal, Protocol, get_args

from rerank.errors import UnknownNameError, UsageError
from rerank.selector import Selector
from rerank.types import Document, Ranking

Aggregate = Literal["max", "first", "sum"]

#: Characters of scripts written without spaces (Thai, Lao, Myanmar, Khmer, kana, Han), which count as words.
_UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    "\U00020000-\U0003ffff"
)
_WORD = re.compile(f"[{_UNSPACED}]|[^\\s{_UNSPACED}]+")


class DocumentSplitter(Protocol):
    """Protocol of objects that divide documents into passages, and order the documents by their ranked passages."""

    def expand(self, ranking: Ranking) -> Ranking:
        """Return the passages of all documents of a list, in the order of the list."""

    def collect(self, documents: Ranking, passages: Ranking) -> Ranking:
        """Return the documents, ordered by the ranking of their passages."""

    def collect_scores(self, passages: Ranking, scores: Mapping[str, float]) -> dict[str, float]:
        """Return a mapping from document id to score, computed from the scores of the passages.

        Args:
            scores: Mapping from passage id to score. Documents without a score are omitted from the result.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class PassageAggregation:
    """Options for dividing documents into passages and aggregating the ranks of the passages.

    A passage consists of ``size`` words and the whitespace between them. The next passage starts ``stride`` words
    later; the last passage reaches the end of the document. Each passage keeps its document's title and first-stage
    score, and its id is ``ID#1``, ``ID#2`` and so on. A document that is not longer than a passage, or has no text, is
    a single passage, so every document is judged.

    The passage at rank r has the score 1/r. With ``max``, a document has the score of its best passage. With ``first``,
    only the first passage of each document is judged, which needs no more calls than truncation. With ``sum``, a
    document has the sum of the scores of its passages, which favours long documents. These are MaxP, FirstP and SumP of
    Dai and Callan (SIGIR 2019, arXiv 1905.09217), applied to reciprocal ranks. Ties keep the input order.
    """

    aggregate: Aggregate = "max"  # ``max``, ``first`` or ``sum``
    size: int = 150  # number of words per passage; in scripts without spaces, each character counts as a word
    stride: int = 75

    def __post_init__(self) -> None:
        if self.aggregate not in get_args(Aggregate):
            raise UnknownNameError("aggregate of passages", self.aggregate, get_args(Aggregate))
        if not 0 < self.stride <= self.size:
            raise UsageError(
                f"Passages have a size of {self.size} words and a stride of {self.stride}",
                expected="0 < stride <= size, so that no word is skipped",
            )

    @classmethod
    def parse(cls, text: str) -> PassageAggregation:
        """Parse ``AGGREGATE,size=WORDS,stride=WORDS``; by default, the size is 150 and the stride is half the size.

        >>> PassageAggregation.parse("sum,size=100")
        PassageAggregation(aggregate='sum', size=100, stride=50)
        """
        selector = Selector.parse(text)
        if selector.name not in get_args(Aggregate):
            raise UnknownNameError("aggregate of passages", selector.name, get_args(Aggregate))
        for key in selector.options:
            if key not in ("size", "stride"):
                raise UnknownNameError("option of passages", key, ("size", "stride"))
        size = _check_words("size", selector.options.get("size", "150"))
        stride = _check_words("stride", selector.options.get("stride", str(max(1, size // 2))))
        if selector.argument:
            raise UsageError(
                f"The value {text!r} for passages has an argument after a colon",
                expected=f"{selector.name},size={size},stride={stride}",
            )
        return cls(aggregate=selector.name, size=size, stride=stride)  # type: ignore[arg-type]  # looked up above

    def split(self, document: Document) -> tuple[Document, ...]:
        words = [match.span() for match in _WORD.finditer(document.text)]
        starts = range(0, max(1, len(words) - self.size + self.stride), self.stride)
        if self.aggregate == "first":
            starts = starts[:1]
        texts = [
            document.text[words[start][0] : words[min(start + self.size, len(words)) - 1][1]] if words else ""
            for start in starts
        ]
        return tuple(make_passage(document, number, text) for number, text in enumerate(texts, 1))

    def expand(self, ranking: Ranking) -> Ranking:
        return split_documents(ranking, self.split)

    def collect(self, documents: Ranking, passages: Ranking) -> Ranking:
        """Return the documents, ordered by the aggregated reciprocal ranks of their passages.

        If the passages are still in their initial order, the documents keep their order, too. Without this rule,
        ``sum`` would put long documents first although no judge preferred them.
        """
        positions = {doc.id: position for position, doc in enumerate(documents.docs)}
        keys = [(positions[doc.part_of], int(doc.id.rpartition("#")[2])) for doc in passages.docs]
        if keys == sorted(keys):
            return documents
        scores: dict[int, list[float]] = {position: [] for position in range(len(documents))}
        for rank, (position, _) in enumerate(keys, 1):
            scores[position].append(1 / rank)
        aggregate = math.fsum if self.aggregate == "sum" else max
        # The sort is stable, so ties keep the input order.
        order = sorted(scores, key=lambda position: aggregate(scores[position]), reverse=True)
        return documents.reorder(0, tuple(order))

    def collect_scores(self, passages: Ranking, scores: Mapping[str, float]) -> dict[str, float]:
        """Return the score of each document's best passage; empty for ``sum``, since sums of scores have no meaning."""
        best: dict[str, str] = {}
        for passage in passages.docs:
            best.setdefault(passage.part_of, passage.id)
        if self.aggregate == "sum":
            return {}
        return {doc_id: scores[passage] for doc_id, passage in best.items() if passage in scores}


def make_passage(document: Document, number: int, text: str) -> Document:
    """Return a passage of a document, given the number (from 1) and the text of the passage."""
    return replace(document, id=f"{document.id}#{number}", text=text, part_of=document.id)


def split_documents(ranking: Ranking, split: Callable[[Document], Iterable[Document]]) -> Ranking:
    """Return a list in which documents are replaced by their passages, each with the score of its document, if any."""
    pairs = [(passage, position) for position, doc in enumerate(ranking.docs) for passage in split(doc)]
    scores = tuple(ranking.scores[position] for _, position in pairs) if ranking.scores else ()
    return Ranking(ranking.query, tuple(passage for passage, _ in pairs), scores)


def _check_words(name: str, value: str) -> int:
    try:
        return int(value)
    except ValueError as error:
        raise UsageError(
            f"The option {name}={value!r} of passages is not a number", expected="a whole number of words, such as 150"
        ) from error
