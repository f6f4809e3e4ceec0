"""The core data types: queries, documents, rankings, runs, qrels and windows.

All are immutable. Their invariants are in their docstrings and are checked on construction.
"""

from __future__ import annotations

import math
import struct
from array import array
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from rerank.errors import DataError

#: Positions (from 0) of a window's documents, best first: a permutation of ``range(len(window))``.
Order = tuple[int, ...]

_NO_SOURCE: Mapping[str, Any] = {}  # shared by all documents; a read-only proxy could not be pickled
_FLOAT32_MAX = float.fromhex("0x1.fffffep+127")


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """A user's query."""

    id: str  # always a string, also for the numbers of TREC topics
    text: str = ""  # empty if only the identifier is known, as in a run file
    instruction: str = ""  # what counts as relevant, for prompts that have a place for it; empty for none


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """A retrievable document: a passage of text or a picture."""

    id: str  # always a string
    text: str = ""  # empty if only the identifier is known, as in a run file
    title: str = ""
    image: str = ""  # path of the picture; empty if the document has none
    part_of: str = ""  # id of the document that contains this passage; empty for a whole document
    #: Further keys of the input record, such as a URL; returned with results, and ignored in comparisons.
    source: Mapping[str, Any] = field(default_factory=lambda: _NO_SOURCE, compare=False, repr=False)

    @property
    def full_text(self) -> str:
        """Title and body in one string, for retrievers that index both."""
        return f"{self.title}\n{self.text}" if self.title else self.text


def ranking_tie_sort_key(score: float, doc_id: str) -> tuple[float, str]:
    """Return the sort key of trec_eval's tie-breaking rule, for ``reverse=True``: score, then document id, descending.

    Source: ``comp_sim_docno`` in trec_eval's form_res_rels.c. This package has no other tie-breaking rule. Ids compare
    by code point, which for UTF-8 is the byte order of the ``strcmp`` in trec_eval.
    """
    return (score, doc_id)


def ranking_score_to_float32(value: float) -> float:
    """Round a score to the nearest finite single-precision number, as trec_eval does."""
    return float(struct.unpack("<f", struct.pack("<f", max(-_FLOAT32_MAX, min(_FLOAT32_MAX, value))))[0])


def ranking_scores_to_float32(values: Iterable[float]) -> list[float]:
    """Round many scores like `ranking_score_to_float32`, in a quarter of the time of separate calls."""
    rounded = array("f", values).tolist()  # numbers that are too large become infinite
    return rounded if all(map(math.isfinite, rounded)) else [*map(ranking_score_to_float32, rounded)]


def _next_ranking_score_below(value: float) -> float:
    """Return the largest single-precision number below the single-precision number ``value``."""
    # IEEE 754 numbers of one sign are ordered like their bits read as integers: the next number differs by 1.
    if value == 0.0:
        return -float(struct.unpack("<f", struct.pack("<I", 1))[0])
    (bits,) = struct.unpack("<I", struct.pack("<f", value))
    return float(struct.unpack("<f", struct.pack("<I", bits - 1 if value > 0 else bits + 1))[0])


def make_ranking_scores_strictly_decrease(scores: Sequence[float]) -> list[float]:
    """Return non-increasing finite ``scores``, changed as little as possible so that they strictly decrease as floats.

    trec_eval stores scores as C floats and breaks ties by document id, so it would reorder documents whose scores
    differ only in double precision.
    """
    result: list[float] = []
    ceiling = math.inf
    for score in scores:
        value = ranking_score_to_float32(max(-3.0e38, min(3.0e38, score)))
        if value >= ceiling:
            value = _next_ranking_score_below(ceiling)
        ceiling = value
        result.append(value)
    return result


@dataclass(frozen=True, slots=True)
class Ranking:
    """A ranked list of documents for one query, best first.

    Scores are non-increasing; after reranking, they are reciprocal ranks, not estimates of relevance.

    Raises:
        DataError: A document occurs twice, some but not all documents have a finite score, or scores increase.
    """

    query: Query
    docs: tuple[Document, ...]
    scores: tuple[float, ...] = ()  # one per document, or empty
    _ids: tuple[str, ...] = field(default=(), init=False, repr=False, compare=False)  # set by from_ids

    def __post_init__(self) -> None:
        ids, scores = self.doc_ids, list(self.scores)
        if (
            len(scores) not in (0, len(ids))
            or len(set(ids)) < len(ids)
            or not all(map(math.isfinite, scores))
            or scores != sorted(scores, reverse=True)  # one pass if they are sorted
        ):
            self._raise_violated_invariant()

    def _raise_violated_invariant(self) -> None:
        """Raise an error that describes the first violated invariant of the ranking."""
        where, ids = f"query {self.query.id!r}", self.doc_ids
        if self.scores and len(ids) != len(self.scores):
            raise DataError(
                f"The {len(ids)} documents of {where} have {len(self.scores)} scores", expected="one score each or none"
            )
        seen: set[str] = set()
        for doc_id in ids:
            if doc_id in seen:
                raise DataError(f"Document {doc_id!r} occurs twice in the ranking of {where}", expected="each id once")
            seen.add(doc_id)
        for doc_id, score, above in zip(ids, self.scores, (math.inf, *self.scores), strict=False):
            if not math.isfinite(score):
                raise DataError(
                    f"The score of document {doc_id!r} in {where} is {score}",
                    expected="a finite number",
                    remedy="Remove the document or give it a finite score",
                )
            if score > above:
                raise DataError(
                    f"Score {score} of document {doc_id!r} in {where} is above the preceding score {above}",
                    expected="scores that do not increase",
                )

    if not TYPE_CHECKING:  # type checkers would allow any attribute

        def __getattr__(self, name: str) -> object:
            """Create the documents of a ranking that was made from ids, when they are first needed."""
            if name != "docs":
                raise AttributeError(name)
            object.__setattr__(self, "docs", tuple([Document(id=doc_id) for doc_id in self._ids]))
            return self.docs

    @classmethod
    def from_ids(cls, query: Query, doc_ids: Sequence[str], scores: Sequence[float]) -> Ranking:
        """Build a ranking from ids, best first; documents are created on first use, as most runs are only evaluated."""
        ranking = cls.__new__(cls)
        for name, value in (("query", query), ("scores", tuple(scores)), ("_ids", tuple(doc_ids))):
            object.__setattr__(ranking, name, value)
        ranking.__post_init__()
        return ranking

    @classmethod
    def from_scores(cls, query: Query, scored: Iterable[tuple[Document, float]]) -> Ranking:
        """Build a ranking by sorting documents by score, with the tie-breaking rule of `ranking_tie_sort_key`."""
        pairs = list(scored)
        for doc, score in pairs:
            if not math.isfinite(score):  # NaN is unordered, so it must not reach the sort
                raise DataError(
                    f"The score of document {doc.id!r} in query {query.id!r} is {score}", expected="a finite number"
                )
        pairs.sort(key=lambda pair: ranking_tie_sort_key(pair[1], pair[0].id), reverse=True)
        return cls(query, tuple(doc for doc, _ in pairs), tuple(score for _, score in pairs))

    @classmethod
    def from_order(cls, query: Query, docs: Iterable[Document]) -> Ranking:
        """Build a ranking from documents in order; the score at rank r is 1/r."""
        ordered = tuple(docs)
        return cls(query, ordered, tuple(1.0 / rank for rank in range(1, len(ordered) + 1)))

    def __len__(self) -> int:
        return len(self._ids or self.docs)

    @property
    def doc_ids(self) -> tuple[str, ...]:
        """The ids of the documents, best first."""
        return self._ids or tuple([doc.id for doc in self.docs])

    @property
    def written_scores(self) -> tuple[float, ...]:
        """The scores, or reciprocal ranks if there are none, since every line of a run file needs a score."""
        return self.scores or tuple(1.0 / rank for rank in range(1, len(self) + 1))

    def reorder(self, start: int, order: Order) -> Ranking:
        """Permute the documents at positions ``start`` to ``start + len(order) - 1``; scores stay at their positions.

        ``start`` counts from 0, and ``order`` holds positions within the window, best first. It is a `DataError` if
        they are not a permutation or extend beyond the ranking, so that a document would be lost.
        """
        end = start + len(order)
        if start < 0 or end > len(self.docs) or sorted(order) != list(range(len(order))):
            raise DataError(
                f"Order {list(order)} does not fit positions {start} to {end - 1} of the {len(self.docs)} documents of "
                f"query {self.query.id!r}",
                expected="a permutation of positions within the ranking",
            )
        part = tuple(self.docs[start + position] for position in order)
        return replace(self, docs=self.docs[:start] + part + self.docs[end:])

    def top(self, k: int) -> Ranking:
        """Return the ranking of the first ``k`` documents, or all if it has fewer; a ``k`` below 0 is a `DataError`."""
        if k < 0:
            raise DataError(
                f"The number of documents to keep for query {self.query.id!r} is {k}", expected="at least 0"
            )
        return replace(self, docs=self.docs[:k], scores=self.scores[:k])

    def without(self, *doc_ids: str) -> Ranking:
        """Return the ranking without these documents, such as a document with the query's id (BEIR's rule)."""
        dropped = frozenset(doc_ids)
        left = [position for position, doc in enumerate(self.docs) if doc.id not in dropped]
        scores = tuple(self.scores[position] for position in left) if self.scores else ()
        return Ranking(self.query, tuple(self.docs[position] for position in left), scores)


class Run(Mapping[str, Ranking]):
    """An immutable mapping from query id to `Ranking`, in input order.

    The name is the run's tag, the last column of a TREC run file. Two rankings of one query are a `DataError`.
    """

    __slots__ = ("_rankings", "name")

    def __init__(self, rankings: Iterable[Ranking], *, name: str = "run") -> None:
        table: dict[str, Ranking] = {}
        for ranking in rankings:
            if ranking.query.id in table:
                raise DataError(f"Run {name!r} contains two rankings for query {ranking.query.id!r}")
            table[ranking.query.id] = ranking
        self._rankings: Mapping[str, Ranking] = MappingProxyType(table)
        self.name = name

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(Run, tuple(self.values()), name=self.name), ()

    def __getitem__(self, query_id: str) -> Ranking:
        return self._rankings[query_id]

    def __iter__(self) -> Iterator[str]:
        return iter(self._rankings)

    def __len__(self) -> int:
        return len(self._rankings)

    def __repr__(self) -> str:
        return f"Run({self.name!r}, {len(self)} queries)"

    def top(self, k: int) -> Run:
        """Return the run with every ranking truncated to its first ``k`` documents."""
        return Run((ranking.top(k) for ranking in self.values()), name=self.name)


UNJUDGED = -1  #: Grade of documents that were pooled but not judged. Only infAP uses them, as in trec_eval.
#: Grade of documents that must not be ranked for a query. ir_datasets uses it for BRIGHT's excluded ids.
EXCLUDED = -100
NOT_JUDGED = frozenset({UNJUDGED, EXCLUDED})  # grades that say nothing about relevance


class Qrels(Mapping[str, Mapping[str, int]]):
    """Relevance judgments: an immutable mapping from query id to document id to grade.

    A grade is an integer; larger is more relevant, and below 1 means not relevant, except that `UNJUDGED` means pooled
    but not judged, and `EXCLUDED` that the document must not be ranked. The name is the source, for messages.
    """

    __slots__ = ("_grades", "name")

    def __init__(self, grades: Mapping[str, Mapping[str, int]], *, name: str = "qrels") -> None:
        self._grades: Mapping[str, Mapping[str, int]] = MappingProxyType(
            {query_id: MappingProxyType(dict(judged)) for query_id, judged in grades.items()}
        )
        self.name = name

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(Qrels, {query_id: dict(judged) for query_id, judged in self.items()}, name=self.name), ()

    def __getitem__(self, query_id: str) -> Mapping[str, int]:
        return self._grades[query_id]

    def __iter__(self) -> Iterator[str]:
        return iter(self._grades)

    def __len__(self) -> int:
        return len(self._grades)

    def judged(self) -> Qrels:
        """Return the judgments without the grades `UNJUDGED` and `EXCLUDED`. All queries are kept."""
        rows = {q: {doc: g for doc, g in grades.items() if g not in NOT_JUDGED} for q, grades in self.items()}
        return Qrels(rows, name=self.name)

    def __repr__(self) -> str:
        return f"Qrels({self.name!r}, {len(self)} queries, {sum(map(len, self.values()))} judgments)"


@dataclass(frozen=True, slots=True)
class Window:
    """Documents of one query, in their current order, that a strategy selects and a judge orders together."""

    query: Query
    docs: tuple[Document, ...]
    scores: tuple[float, ...] = ()  # first-stage scores, added by `rerank.pipeline.driver`; empty if unknown
    best: int | None = None  # number of top documents to rank, at least 1; the others may keep their order

    def __post_init__(self) -> None:
        if self.scores and len(self.scores) != len(self.docs):
            raise DataError(
                f"A window of query {self.query.id!r} has {len(self.docs)} documents but {len(self.scores)} scores",
                expected="one score per document, or no scores",
            )

    def __len__(self) -> int:
        return len(self.docs)

    @property
    def depth(self) -> int:
        """Number of documents to rank: ``best``, or all documents."""
        return len(self.docs) if self.best is None else max(0, min(self.best, len(self.docs)))


#: The generator of a strategy: it yields windows, is sent one order per window, and returns the final ranking.
Plan = Generator[list[Window], list[Order], Ranking]
