"""Protocol of teachers, and functions that convert scores and runs into teacher rankings."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from rerank.collections import Collection
from rerank.experiment.spec import Execution, RunSpec
from rerank.types import Qrels, Ranking, Run

if TYPE_CHECKING:
    from rerank.experiment import PreparedRun


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherRanking:
    """Ranking of the candidates of one query by a teacher."""

    order: tuple[str, ...]  #: Ids of all candidates, best first.
    scores: Mapping[str, float] = field(default_factory=dict)  #: By document id; empty if the teacher computes none.
    #: Ids of candidates that the teacher does not rank; they come last, in first-stage order.
    unranked: frozenset[str] = frozenset()
    failed: str = ""  #: Reason why this ranking cannot be used as a label; empty if it can be used.


@dataclass(frozen=True, slots=True, kw_only=True)
class LabellingTask:
    """Candidates to label, with all inputs that teachers may need."""

    spec: RunSpec  #: Only the teacher `method` uses its method and model.
    execution: Execution
    collection: Collection
    candidates: Run
    qrels: Qrels  #: Relevance judgments of the specification or the collection; empty if there are none.
    prepared: PreparedRun | None  #: Prepared run for the teacher `method`; None if no teacher needs it.
    execute: Callable[[PreparedRun, Execution], dict[str, Any]]


class Teacher(Protocol):
    """A teacher ranks candidate documents to produce training labels. Dataclass fields are its options."""

    #: True if it executes the run of the specification, so that its model has to be loaded.
    runs: ClassVar[bool]
    #: True if it can rank only judged queries.
    judged_only: ClassVar[bool]

    def scored(self, spec: RunSpec) -> bool:
        """Return whether the teacher's rankings have scores, which can be fused with the scores of other teachers."""

    def label(self, task: LabellingTask) -> tuple[Mapping[str, TeacherRanking], Mapping[str, Any]]:
        """Return a ranking for every query of ``task.candidates``, by query id, and further values for the report."""


def rank_by_list(
    candidates: Ranking, ranked: Sequence[str], scores: Mapping[str, float] | None = None
) -> TeacherRanking:
    """Rank candidates in the order of a list of ids; candidates that are not in the list come last.

    Ids of other documents are ignored. ``scores`` are those of the listed documents, if any.

    >>> from rerank.types import Document, Query
    >>> given = Ranking.from_order(Query(id="q"), [Document(id=name) for name in "abc"])
    >>> rank_by_list(given, ["c", "x", "b"]).order
    ('c', 'b', 'a')
    """
    candidate_ids, ranked_ids = set(candidates.doc_ids), set(ranked)
    found = [doc_id for doc_id in ranked if doc_id in candidate_ids]
    unranked = [doc_id for doc_id in candidates.doc_ids if doc_id not in ranked_ids]
    known = {doc_id: scores[doc_id] for doc_id in found} if scores else {}
    return TeacherRanking(order=(*found, *unranked), scores=known, unranked=frozenset(unranked))


def rank_by_scores(candidates: Ranking, scores: Mapping[str, float]) -> TeacherRanking:
    """Rank candidates by descending score; ties keep first-stage order, and candidates without a score come last."""
    known = [doc_id for doc_id in candidates.doc_ids if doc_id in scores]
    return rank_by_list(candidates, sorted(known, key=lambda doc_id: -scores[doc_id]), scores)


def rank_by_run(candidates: Iterable[Ranking], run: Run) -> dict[str, TeacherRanking]:
    """Rank candidates in the order of a run, with the scores of the run.

    Rankings of queries that the run lacks, or whose list in the run contains no candidate, are marked as failed.
    """
    rankings = {}
    for ranking in candidates:
        query_id, failed = ranking.query.id, ""
        if query_id not in run:
            failed = "the run has no list for the query"
        else:
            listed = run[query_id]
            scores = dict(zip(listed.doc_ids, listed.scores, strict=True))
            rankings[query_id] = rank_by_list(ranking, listed.doc_ids, scores)
            if len(rankings[query_id].unranked) == len(ranking) > 0:
                failed = "the run has none of the candidates"
        if failed:
            rankings[query_id] = TeacherRanking(order=ranking.doc_ids, failed=failed)
    return rankings
