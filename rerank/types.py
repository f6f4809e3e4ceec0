"""The nouns everything else is written in: queries, documents, rankings, runs, judgments, windows.

All are frozen. What each guarantees is in its docstring and is checked where the value is made, so that the rest of
the package can rely on it. This module imports nothing of ours but the errors and knows nothing of files or models.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

from rerank.errors import DataError

#: Positions (0-based) of a window's documents, best first. A full order is a permutation of ``range(len(window))``.
Order = tuple[int, ...]

_FLOAT32_MAX = float.fromhex("0x1.fffffep+127")


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """What a user asked for.

    Attributes:
        id: Identifier, always text (TREC's numbers too).
        text: The words; empty where only the identifier is known, as in a run file.
    """

    id: str
    text: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """One retrievable passage or picture.

    Attributes:
        id: Identifier, always text.
        text: The body; empty where only the identifier is known, as in a run file.
        title: The title, empty if there is none.
        image: Path of its picture; empty if it has none.
        part_of: Id of the document that it is a passage of; empty for a whole one.
    """

    id: str
    text: str = ""
    title: str = ""
    image: str = ""
    part_of: str = ""

    @property
    def full_text(self) -> str:
        """Title and body in one string, for first stages that index both."""
        return f"{self.title}\n{self.text}" if self.title else self.text


def tie_key(score: float, doc_id: str) -> tuple[float, str]:
    """Sort key of trec_eval's rule, to be used with ``reverse=True``: score, then document id, both descending.

    Source: ``comp_sim_docno`` in trec_eval's form_res_rels.c. The only tie rule of this package. Ids compare by
    code point, which for UTF-8 is the byte order that trec_eval's ``strcmp`` uses.
    """
    return (score, doc_id)


def float32(value: float) -> float:
    """The nearest single-precision number that is finite: what trec_eval keeps of a score."""
    return float(struct.unpack("<f", struct.pack("<f", max(-_FLOAT32_MAX, min(_FLOAT32_MAX, value))))[0])


def _below(value: float) -> float:
    """The largest single-precision number that is less than ``value`` (itself single precision)."""
    if value == 0.0:
        return -float(struct.unpack("<f", struct.pack("<I", 1))[0])
    (bits,) = struct.unpack("<I", struct.pack("<f", value))
    return float(struct.unpack("<f", struct.pack("<I", bits - 1 if value > 0 else bits + 1))[0])


def strictly_decreasing(scores: Sequence[float]) -> list[float]:
    """Return ``scores``, changed as little as needed to fall strictly even in single precision.

    trec_eval stores scores as C floats and breaks ties by document id, so scores that differ only in double
    precision would let it reorder a list.

    Args:
        scores: Non-increasing finite numbers.
    """
    result: list[float] = []
    ceiling = math.inf
    for score in scores:
        value = float32(max(-3.0e38, min(3.0e38, score)))
        if value >= ceiling:
            value = _below(ceiling)
        ceiling = value
        result.append(value)
    return result


@dataclass(frozen=True, slots=True)
class Ranking:
    """One query's documents, best first, with scores.

    Guarantees: no document twice; one finite score a document, none larger than the one before it.

    Attributes:
        query: The query that was answered.
        docs: The documents, best first.
        scores: Their scores, non-increasing. After a rerank these are positions, not estimates of relevance.

    Raises:
        DataError: An invariant does not hold.
    """

    query: Query
    docs: tuple[Document, ...]
    scores: tuple[float, ...]

    def __post_init__(self) -> None:
        """Check the invariants."""
        where = f"query {self.query.id!r}"
        if len(self.docs) != len(self.scores):
            raise DataError(f"{len(self.docs)} documents with {len(self.scores)} scores in {where}")
        seen: set[str] = set()
        for doc in self.docs:
            if doc.id in seen:
                raise DataError(f"Document {doc.id!r} stands twice in the list of {where}", expected="each id once")
            seen.add(doc.id)
        for doc, score in zip(self.docs, self.scores, strict=True):
            if not math.isfinite(score):
                raise DataError(
                    f"Score {score} of document {doc.id!r} in {where}",
                    expected="a finite number",
                    remedy="Drop the document or give it a number",
                )
        for doc, above, below in zip(self.docs[1:], self.scores, self.scores[1:], strict=False):
            if below > above:
                raise DataError(f"Score {below} of document {doc.id!r} in {where} is above the one before it, {above}")

    @classmethod
    def from_scores(cls, query: Query, scored: Iterable[tuple[Document, float]]) -> Ranking:
        """Sort documents by score under the tie rule (`tie_key`)."""
        pairs = list(scored)
        for doc, score in pairs:
            if not math.isfinite(score):  # NaN has no place in an order, so it must not reach the sort
                raise DataError(
                    f"Score {score} of document {doc.id!r} in query {query.id!r}", expected="a finite number"
                )
        pairs.sort(key=lambda pair: tie_key(pair[1], pair[0].id), reverse=True)
        return cls(query, tuple(doc for doc, _ in pairs), tuple(score for _, score in pairs))

    @classmethod
    def from_order(cls, query: Query, docs: Iterable[Document]) -> Ranking:
        """Keep the order as given; the score at rank r is 1/r."""
        ordered = tuple(docs)
        return cls(query, ordered, tuple(1.0 / rank for rank in range(1, len(ordered) + 1)))

    def __len__(self) -> int:
        """How many documents there are."""
        return len(self.docs)

    @property
    def doc_ids(self) -> tuple[str, ...]:
        """The documents' ids, best first."""
        return tuple(doc.id for doc in self.docs)

    def reorder(self, start: int, order: Order) -> Ranking:
        """Permute the documents at ``start .. start + len(order) - 1``; scores stay with their positions.

        Args:
            start: First position (0-based) of the part that was judged.
            order: A permutation of ``range(len(order))``, best first.

        Raises:
            DataError: ``order`` is no permutation or reaches past the end, so a document would be lost.
        """
        end = start + len(order)
        if start < 0 or end > len(self.docs) or sorted(order) != list(range(len(order))):
            raise DataError(
                f"Order {list(order)} for positions {start} to {end - 1} of {len(self.docs)} in query "
                f"{self.query.id!r}",
                expected="a permutation that stays inside the list",
            )
        part = tuple(self.docs[start + position] for position in order)
        return replace(self, docs=self.docs[:start] + part + self.docs[end:])

    def top(self, k: int) -> Ranking:
        """The first ``k`` documents (all of them if there are fewer).

        Raises:
            DataError: ``k`` is below 0.
        """
        if k < 0:
            raise DataError(f"The first {k} documents of query {self.query.id!r}", expected="at least 0")
        return replace(self, docs=self.docs[:k], scores=self.scores[:k])

    def without(self, doc_id: str) -> Ranking:
        """The same list less one document, as BEIR's rule on ids equal to the query's asks for."""
        kept = [(d, s) for d, s in zip(self.docs, self.scores, strict=True) if d.id != doc_id]
        return Ranking(self.query, tuple(d for d, _ in kept), tuple(s for _, s in kept))


class Run(Mapping[str, Ranking]):
    """Query id -> `Ranking`, in the order given, with a name. Immutable.

    Args:
        rankings: One per query.
        name: The run's tag, as the last column of a TREC run.

    Raises:
        DataError: Two rankings for one query.
    """

    __slots__ = ("_rankings", "name")

    def __init__(self, rankings: Iterable[Ranking], *, name: str = "run") -> None:
        """Index the rankings by query id."""
        table: dict[str, Ranking] = {}
        for ranking in rankings:
            if ranking.query.id in table:
                raise DataError(f"Two rankings for query {ranking.query.id!r} in run {name!r}")
            table[ranking.query.id] = ranking
        self._rankings: Mapping[str, Ranking] = MappingProxyType(table)
        self.name = name

    def __getitem__(self, query_id: str) -> Ranking:
        """The ranking of one query."""
        return self._rankings[query_id]

    def __iter__(self) -> Iterator[str]:
        """Query ids in the order given."""
        return iter(self._rankings)

    def __len__(self) -> int:
        """How many queries there are."""
        return len(self._rankings)

    def __repr__(self) -> str:
        """Name and size, not thousands of documents."""
        return f"Run({self.name!r}, {len(self)} queries)"

    def top(self, k: int) -> Run:
        """Every list cut to its first ``k`` documents."""
        return Run((ranking.top(k) for ranking in self.values()), name=self.name)


class Qrels(Mapping[str, Mapping[str, int]]):
    """Query id -> document id -> grade (an integer; larger is more relevant). Immutable.

    Args:
        grades: The nested mapping. Grades below 1 mean judged and not relevant.
        name: Where they come from, for messages.
    """

    __slots__ = ("_grades", "name")

    def __init__(self, grades: Mapping[str, Mapping[str, int]], *, name: str = "qrels") -> None:
        """Take a copy that nobody can write to."""
        self._grades: Mapping[str, Mapping[str, int]] = MappingProxyType(
            {query_id: MappingProxyType(dict(judged)) for query_id, judged in grades.items()}
        )
        self.name = name

    def __getitem__(self, query_id: str) -> Mapping[str, int]:
        """The judged documents of one query."""
        return self._grades[query_id]

    def __iter__(self) -> Iterator[str]:
        """Query ids in the order given."""
        return iter(self._grades)

    def __len__(self) -> int:
        """How many queries have judgments."""
        return len(self._grades)

    def __repr__(self) -> str:
        """Name and size."""
        return f"Qrels({self.name!r}, {len(self)} queries, {sum(map(len, self.values()))} judgments)"


@dataclass(frozen=True, slots=True)
class Window:
    """The documents of one query that are to be put in order now, in their present order.

    Attributes:
        query: The query.
        docs: The documents.
        scores: Their first-stage scores, one a document; empty if they are not known. Strategies leave them out.
        best: How many of the best are wanted in order, from 1; the rest may follow as given. None for all.

    Raises:
        DataError: Some documents have a score and some have none.
    """

    query: Query
    docs: tuple[Document, ...]
    scores: tuple[float, ...] = ()
    best: int | None = None

    def __post_init__(self) -> None:
        """Check that the scores are complete."""
        if self.scores and len(self.scores) != len(self.docs):
            raise DataError(
                f"{len(self.scores)} scores for the {len(self.docs)} documents of a window of query {self.query.id!r}",
                expected="one score a document, or none at all",
            )

    def __len__(self) -> int:
        """How many documents there are."""
        return len(self.docs)

    @property
    def wanted(self) -> int:
        """How many documents are wanted in order."""
        return len(self.docs) if self.best is None else max(0, min(self.best, len(self.docs)))


#: What a strategy is: it yields windows, is sent one order for each, and returns the final ranking.
Plan = Generator[list[Window], list[Order], Ranking]
