"""Ranked lists with scores and judgments: what a calibration is fitted to and tested on."""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from rerank.errors import DataError
from rerank.types import Qrels, Ranking, Run

#: Kinds of judge scores that do not depend on the other documents of the window. With other scores, also those of
#: judges that are not known here, a shorter list may have other ones, so they are calibrated at the depth of their run
#: only. The order of a judge without scores is treated in the same way.
_ABSOLUTE = ("log-odds", "log-likelihood", "cross-encoder score")
#: Depths at which absolute scores are fitted and reported, in addition to the full length of the lists.
DEPTHS = (5, 20, 100)


def is_absolute_score_kind(kind: str) -> bool:
    """Return whether scores of this kind do not depend on the other documents of a window.

    >>> [is_absolute_score_kind(kind) for kind in ("log-odds of relevance", "log attention", "")]
    [True, False, False]
    """
    return kind.startswith(_ABSOLUTE)


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgedList:
    """One ranked list; all tuples are in the order of the final ranking.

    Attributes:
        query: Collection and id of the query.
        depth: Number of first-stage documents that the list was cut to; lists are reported by it.
        length: Number of documents that the list counts as, which is larger than its number of documents if some were
            removed.
        relevant: Whether each document is relevant; None if it is not judged.
        judge: The judge's scores; None for documents without one.
        first_stage: The first-stage scores; None if there are none.
        first_stage_ranks: The ranks in the first stage, from 1.
    """

    query: tuple[str, str]
    depth: int
    length: int
    relevant: tuple[bool | None, ...]
    judge: tuple[float | None, ...]
    first_stage: tuple[float, ...] | None
    first_stage_ranks: tuple[int, ...]

    def __len__(self) -> int:
        """Return the number of documents."""
        return len(self.relevant)

    @property
    def has_relevant(self) -> bool:
        """Whether at least one document is judged relevant."""
        return any(self.relevant)

    @property
    def is_judged(self) -> bool:
        """Whether at least one document is judged."""
        return any(label is not None for label in self.relevant)

    def cut(self, depth: int) -> JudgedList:
        """Return the list of the first ``depth`` documents of the first stage, in the order of the ranking."""
        ranks = sorted(self.first_stage_ranks)[:depth]
        last = ranks[-1] if ranks else 0
        shorter = self._select([i for i, rank in enumerate(self.first_stage_ranks) if rank <= last])
        return replace(shorter, depth=depth, length=min(depth, self.length))

    def without_relevant(self) -> JudgedList:
        """Return the list without the documents that are judged relevant; it counts as long as before."""
        return self._select([i for i, label in enumerate(self.relevant) if not label])

    def with_judge_scores(self) -> JudgedList:
        """Return the list of the documents that have a judge score; it counts as long as before."""
        return self._select([i for i, score in enumerate(self.judge) if score is not None])

    def _select(self, positions: Sequence[int]) -> JudgedList:
        scores = self.first_stage
        return replace(
            self,
            relevant=tuple(self.relevant[i] for i in positions),
            judge=tuple(self.judge[i] for i in positions),
            first_stage=None if scores is None else tuple(scores[i] for i in positions),
            first_stage_ranks=tuple(self.first_stage_ranks[i] for i in positions),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RankedCollection:
    """The result of one run: the final order, the scores and the judgments.

    Attributes:
        name: Name of the collection; queries of different collections may have the same id.
        run: The final rankings.
        first_stage: The first-stage rankings of the same documents.
        has_first_stage_scores: Whether the scores of ``first_stage`` are real, not only an order.
        kind: Kind of the judge's scores; empty if it has none.
        judge: Query id -> document id -> score or None.
        qrels: The judgments.
        is_complete: Whether the documents of a judged query that are not judged count as not relevant.
    """

    name: str
    run: Run
    first_stage: Run
    has_first_stage_scores: bool = True
    kind: str = ""
    judge: Mapping[str, Mapping[str, float | None]]
    qrels: Qrels
    is_complete: bool = False

    def lists(self, relevant: int) -> list[JudgedList]:
        """Return the lists of all queries that are not empty, in full length.

        Args:
            relevant: Lowest grade that counts as relevant.

        Raises:
            DataError: A ranking and its first-stage list have different documents.
        """
        return [self._list(ranking, relevant) for ranking in self.run.values() if len(ranking)]

    def _list(self, ranking: Ranking, relevant: int) -> JudgedList:
        query = ranking.query.id
        first = self.first_stage[query] if query in self.first_stage else Ranking(ranking.query, (), ())
        scores = dict(zip(first.doc_ids, first.scores, strict=True))
        if set(scores) != set(ranking.doc_ids):
            raise DataError(
                f"The ranking of query {query!r} in {self.name!r} has {len(ranking)} documents, and its first-stage "
                f"list {len(scores)}",
                expected="the same documents in both",
            )
        ranks = {doc: rank for rank, doc in enumerate(first.doc_ids, 1)}
        grades, judge = self.qrels.get(query, {}), self.judge.get(query, {})
        unjudged = False if grades and self.is_complete else None
        return JudgedList(
            query=(self.name, query),
            depth=len(ranking),
            length=len(ranking),
            relevant=tuple(grades[doc] >= relevant if doc in grades else unjudged for doc in ranking.doc_ids),
            judge=tuple(judge.get(doc) for doc in ranking.doc_ids),
            first_stage=tuple(scores[doc] for doc in ranking.doc_ids) if self.has_first_stage_scores else None,
            first_stage_ranks=tuple(ranks[doc] for doc in ranking.doc_ids),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgedLists:
    """The lists of a calibration.

    Attributes:
        documents: The lists whose documents are fitted and tested, one per query and depth.
        answerable: The lists that are fitted and tested as a whole. Every list with a relevant document is there twice:
            once without its judged relevant documents, and once with them, cut to the same number of documents so that
            this number does not tell the two apart.
    """

    documents: tuple[JudgedList, ...]
    answerable: tuple[JudgedList, ...]

    @property
    def queries(self) -> list[tuple[str, str]]:
        """The queries, sorted."""
        return sorted({ranking.query for ranking in self.documents})

    def of(self, queries: Container[tuple[str, str]]) -> JudgedLists:
        """Return the lists of some queries."""
        return self.select(lambda ranking: ranking if ranking.query in queries else None)

    def select(self, change: Callable[[JudgedList], JudgedList | None]) -> JudgedLists:
        """Return the lists after a change; those that become None or have no judged document are omitted."""
        documents, answerable = (
            tuple(new for ranking in lists if (new := change(ranking)) is not None and new.is_judged)
            for lists in (self.documents, self.answerable)
        )
        return JudgedLists(documents=documents, answerable=answerable)


def cut_judged_lists(collections: Iterable[RankedCollection], relevant: int) -> JudgedLists:
    """Return the lists to fit and report.

    Lists with absolute scores are cut at `DEPTHS`, the others have the depth of their run. Lists without a judged
    document are omitted. If several runs have a list of one query at one depth, the longest run gives it.

    Args:
        collections: The runs.
        relevant: Lowest grade that counts as relevant.
    """
    documents: dict[tuple[tuple[str, str], int], JudgedList] = {}
    answerable: dict[tuple[tuple[str, str], int], list[JudgedList]] = {}
    sources = [(is_absolute_score_kind(c.kind), c.lists(relevant)) for c in collections]
    sources.sort(key=lambda source: -max(map(len, source[1]), default=0))
    for absolute, lists in sources:
        deepest = max(map(len, lists), default=0)
        depths = [*(depth for depth in DEPTHS if depth < deepest), deepest] if absolute else [deepest]
        for ranking in lists:
            for depth in depths:
                documents.setdefault((ranking.query, depth), ranking.cut(depth))
                answerable.setdefault(
                    (ranking.query, depth), _calibration_list_with_and_without_relevant(ranking, depth)
                )
    pairs = (ranking for lists in answerable.values() for ranking in lists)
    return JudgedLists(documents=tuple(documents.values()), answerable=tuple(pairs)).select(lambda ranking: ranking)


def _calibration_list_with_and_without_relevant(ranking: JudgedList, depth: int) -> list[JudgedList]:
    """Return a list twice, as `JudgedLists.answerable` says; once if it has no relevant document.

    Removed documents are replaced by those that follow in the first stage, as far as there are any.
    """
    complete = ranking.cut(depth)
    if not complete.has_relevant:
        return [complete]
    reduced = ranking.without_relevant().cut(depth)
    same_size = replace(ranking.cut(len(reduced)), depth=depth, length=complete.length)
    return [same_size, reduced]


def check_finite_scores(values: Iterable[float | None], what: str) -> None:
    """Check that scores are finite.

    Raises:
        DataError: A score is infinite or not a number.
    """
    for position, value in enumerate(values, 1):
        if value is not None and not math.isfinite(value):
            raise DataError(f"The {what} {value} at rank {position}", expected="a finite number")
