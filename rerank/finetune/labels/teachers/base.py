"""What a teacher is: it gets candidates and gives each query's an order. Knows no particular one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from rerank.collections import Collection
from rerank.experiment.spec import Execution, RunSpec
from rerank.types import Qrels, Ranking, Run

if TYPE_CHECKING:
    from rerank.experiment import Prepared


@dataclass(frozen=True, slots=True, kw_only=True)
class Opinion:
    """What a teacher says of one query's candidates.

    Attributes:
        order: All of them, best first.
        scores: Document -> the teacher's score; empty where it gives none.
        silent: The candidates that it says nothing about: they come last, in their given order.
        failed: Why this is no label, in words; empty where it is one.
    """

    order: tuple[str, ...]
    scores: Mapping[str, float] = field(default_factory=dict)
    silent: frozenset[str] = frozenset()
    failed: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What is labelled.

    Attributes:
        spec: What was asked for; the method and the model are for the teacher `method` alone.
        execution: How.
        collection: Where the documents are.
        candidates: A list for every query, in first-stage order, with texts.
        qrels: The judgments that the specification or the collection has; empty if there are none.
        prepared: The run of the specification's method, for the teacher `method`.
        execute: Executes a run and returns its summary.
    """

    spec: RunSpec
    execution: Execution
    collection: Collection
    candidates: Run
    qrels: Qrels
    prepared: Prepared | None
    execute: Callable[[Prepared, Execution], dict[str, Any]]


class Teacher(Protocol):
    """Someone who puts candidates in order. Its fields are its options."""

    #: Whether it runs the specification's method, so that its model has to be loaded.
    runs: ClassVar[bool]
    #: Whether it knows judged queries only.
    judged_only: ClassVar[bool]

    def scored(self, spec: RunSpec) -> bool:
        """Whether it gives scores that can be added up with others', beside an order."""

    def label(self, task: Task) -> tuple[Mapping[str, Opinion], Mapping[str, Any]]:
        """Put every list in order.

        Returns:
            Query -> opinion, for every query of the candidates; and what there is to tell beside, for the report.

        Raises:
            RerankError: It cannot label anything.
        """


def by_ranking(candidates: Ranking, ranked: Sequence[str], scores: Mapping[str, float] | None = None) -> Opinion:
    """Candidates in the order of a list that may lack some of them and have others; those it lacks come last.

    >>> from rerank.types import Document, Query
    >>> given = Ranking.from_order(Query(id="q"), [Document(id=name) for name in "abc"])
    >>> by_ranking(given, ["c", "x", "b"]).order
    ('c', 'b', 'a')
    """
    wanted = set(candidates.doc_ids)
    found = [one for one in ranked if one in wanted]
    silent = [one for one in candidates.doc_ids if one not in set(found)]
    known = {one: scores[one] for one in found} if scores else {}
    return Opinion(order=(*found, *silent), scores=known, silent=frozenset(silent))


def by_scores(candidates: Ranking, scores: Mapping[str, float]) -> Opinion:
    """Candidates by falling score, ties in first-stage order; those without a score come last."""
    known = [one for one in candidates.doc_ids if one in scores]
    return by_ranking(candidates, sorted(known, key=lambda one: -scores[one]), scores)


def by_run(candidates: Iterable[Ranking], run: Run) -> dict[str, Opinion]:
    """Candidates in the order of a run, with its scores; a query that the run lacks has no label."""
    found = {}
    for ranking in candidates:
        name = ranking.query.id
        if name not in run:
            found[name] = Opinion(order=ranking.doc_ids, failed="the run has no list for the query")
            continue
        opinion = by_ranking(ranking, run[name].doc_ids, dict(zip(run[name].doc_ids, run[name].scores, strict=True)))
        if len(opinion.silent) == len(ranking) > 0:
            opinion = Opinion(order=ranking.doc_ids, failed="the run has none of the candidates")
        found[name] = opinion
    return found
