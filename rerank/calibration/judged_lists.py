"""Ranked lists with scores and judgments, to which a calibration is fitted and on which it is tested."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, replace

from rerank.errors import DataError
from rerank.types import Qrels, Ranking, Run

#: Kinds of judge scores that do not depend on the other documents of the window. All other kinds, including those of
#: unknown judges, may give a document another score in a shorter list, so they are calibrated only at the depth of
#: their run. Judges without scores are treated in the same way.
_ABSOLUTE = ("log-odds", "log-likelihood", "logit of the word", "cross-encoder score")
#: Depths at which absolute scores are fitted and reported, in addition to the full length of the lists.
DEPTHS = (5, 20, 100)


def is_absolute_score_to_calibrate(kind: str) -> bool:
    """Return whether scores of this kind are absolute: they do not depend on the other documents of the window.

    >>> [is_absolute_score_to_calibrate(kind) for kind in ("log-odds of relevance", "log attention", "")]
    [True, False, False]
    """
    return kind.startswith(_ABSOLUTE)


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgedList:
    """A ranked list with scores and judgments, for fitting a calibration. Tuples are in the order of the ranking."""

    query: tuple[str, str]  #: Name of the collection and id of the query.
    depth: int  #: Number of first-stage documents to which the list was cut. Reports have one row per depth.
    #: List length that the models use as an input. It is larger than the number of documents if some were removed.
    length: int
    ranks: tuple[int, ...]  #: Rank of each document in the final ranking, from 1.
    relevant: tuple[bool | None, ...]  #: Whether each document is relevant; None if the document is not judged.
    judge: tuple[float | None, ...]  #: The judge's scores; None for documents without a score.
    first_stage: tuple[float, ...] | None  #: The first-stage scores; None if there are no scores.
    first_stage_ranks: tuple[int, ...]  #: The ranks in the first stage, from 1.

    def __len__(self) -> int:
        return len(self.relevant)

    @property
    def has_relevant(self) -> bool:
        return any(self.relevant)

    def cut(self, depth: int) -> JudgedList:
        """Return the list with only the first ``depth`` documents of the first stage, still in the final order."""
        ranks = sorted(self.first_stage_ranks)[:depth]
        last = ranks[-1] if ranks else 0
        shorter = self._select([i for i, rank in enumerate(self.first_stage_ranks) if rank <= last])
        return replace(shorter, depth=depth, length=min(depth, self.length), ranks=tuple(range(1, len(shorter) + 1)))

    def with_judge_scores(self) -> JudgedList:
        return self._select([i for i, score in enumerate(self.judge) if score is not None])

    def _select(self, positions: Sequence[int]) -> JudgedList:
        scores = self.first_stage
        return replace(
            self,
            ranks=tuple(self.ranks[i] for i in positions),
            relevant=tuple(self.relevant[i] for i in positions),
            judge=tuple(self.judge[i] for i in positions),
            first_stage=None if scores is None else tuple(scores[i] for i in positions),
            first_stage_ranks=tuple(self.first_stage_ranks[i] for i in positions),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RankedCollection:
    """The result of one run on one collection: final and first-stage rankings, judge scores and judgments."""

    name: str  #: Name of the collection. Queries of different collections may have the same id.
    run: Run  #: The final rankings.
    first_stage: Run  #: The first-stage rankings of the same documents.
    has_first_stage_scores: bool = True  #: Whether ``first_stage`` has real scores, and not only an order.
    kind: str = ""  #: Kind of the judge's scores; empty if the judge has no scores.
    judge: Mapping[str, Mapping[str, float | None]]  #: Judge scores by query id and document id, or None.
    qrels: Qrels
    relevant: int = 1  #: Lowest grade that counts as relevant in these judgments.
    is_complete: bool = False  #: Whether unjudged documents of a judged query count as not relevant.

    def lists(self) -> list[JudgedList]:
        """Return one list per query with documents; a `DataError` if a ranking differs from its first-stage list."""
        lists = []
        for query, ranking in self.run.items():
            if not len(ranking):
                continue
            first = self.first_stage[query] if query in self.first_stage else Ranking(ranking.query, (), ())
            scores = dict(zip(first.doc_ids, first.scores, strict=True))
            if set(scores) != set(ranking.doc_ids):
                raise DataError(
                    f"The ranking of query {query!r} in {self.name!r} has {len(ranking)} documents, and its "
                    f"first-stage list has {len(scores)}; their documents differ",
                    expected="the same documents in both",
                )
            ranks = {doc: rank for rank, doc in enumerate(first.doc_ids, 1)}
            grades, judge = self.qrels.get(query, {}), self.judge.get(query, {})
            unjudged = False if grades and self.is_complete else None
            judged = JudgedList(
                query=(self.name, query),
                depth=len(ranking),
                length=len(ranking),
                ranks=tuple(range(1, len(ranking) + 1)),
                relevant=tuple(grades[doc] >= self.relevant if doc in grades else unjudged for doc in ranking.doc_ids),
                judge=tuple(judge.get(doc) for doc in ranking.doc_ids),
                first_stage=tuple(scores[doc] for doc in ranking.doc_ids) if self.has_first_stage_scores else None,
                first_stage_ranks=tuple(ranks[doc] for doc in ranking.doc_ids),
            )
            lists.append(judged)
        return lists


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgedLists:
    """The lists to which a calibration is fitted."""

    #: Lists for the probability that a document is relevant, one per query and depth.
    documents: tuple[JudgedList, ...]
    #: Lists for the probability that at least one document is relevant. A list with a relevant document occurs twice:
    #: once without its judged relevant documents, and once with them. Both are cut to the same number of documents, so
    #: a model cannot distinguish them by this number.
    answerable: tuple[JudgedList, ...]

    @property
    def queries(self) -> list[tuple[str, str]]:
        return sorted({ranking.query for ranking in self.documents})

    def of(self, queries: Container[tuple[str, str]]) -> JudgedLists:
        return self.select(lambda ranking: ranking if ranking.query in queries else None)

    def select(self, change: Callable[[JudgedList], JudgedList | None]) -> JudgedLists:
        """Apply ``change`` to each list. Omit lists for which it returns None or a list without a judged document."""
        documents, answerable = (
            tuple(new for ranking in lists if (new := change(ranking)) and set(new.relevant) - {None})
            for lists in (self.documents, self.answerable)
        )
        return JudgedLists(documents=documents, answerable=answerable)


def cut_lists(collections: Sequence[RankedCollection]) -> JudgedLists:
    """Cut the lists of all runs to the depths at which the calibration is fitted and reported.

    Lists with absolute scores are cut at each of `DEPTHS` and also used in full length. Other lists are used only at
    the depth of their run. Lists without a judged document are omitted. If several runs have a list for the same query
    and depth, the list of the deepest run is used.
    """
    grades: dict[str, int] = {}
    for run in collections:
        if run.relevant != grades.setdefault(run.name, run.relevant):
            raise DataError(
                f"Two runs of the collection {run.name!r} count grades from {grades[run.name]} and from {run.relevant} "
                "as relevant",
                expected="the same lowest relevant grade, since their lists of a query are used together",
                remedy="Set it with --relevant",
            )
    documents: dict[tuple[tuple[str, str], int], JudgedList] = {}
    answerable: dict[tuple[tuple[str, str], int], list[JudgedList]] = {}
    sources = [(is_absolute_score_to_calibrate(c.kind), c.lists()) for c in collections]
    sources.sort(key=lambda source: -max(map(len, source[1]), default=0))
    for absolute, lists in sources:
        deepest = max(map(len, lists), default=0)
        depths = [*(depth for depth in DEPTHS if depth < deepest), deepest] if absolute else [deepest]
        for ranking in lists:
            for depth in depths:
                documents.setdefault((ranking.query, depth), ranking.cut(depth))
                answerable.setdefault((ranking.query, depth), _with_and_without_relevant(ranking, depth))
    pairs = (ranking for lists in answerable.values() for ranking in lists)
    return JudgedLists(documents=tuple(documents.values()), answerable=tuple(pairs)).select(lambda ranking: ranking)


def _with_and_without_relevant(ranking: JudgedList, depth: int) -> list[JudgedList]:
    """Return the list with and without its relevant documents, or only the list itself if it has none.

    Both lists have the same number of documents (see `JudgedLists.answerable`). Removed documents are replaced by the
    next documents of the first stage, if there are any.
    """
    complete = ranking.cut(depth)
    if not complete.has_relevant:
        return [complete]
    reduced = ranking._select([i for i, label in enumerate(ranking.relevant) if not label]).cut(depth)
    return [replace(ranking.cut(len(reduced)), depth=depth, length=complete.length), reduced]
