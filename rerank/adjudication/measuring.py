"""Runs measured under many judgments of one pool at once.

ir_measures evaluates one set of judgments at a time and reads all of it anew. In a study the runs and the grades stay
the same, and only which documents count as judged changes. So grades are put in the runs' places once, and all budgets
of an order are measured together. Definitions are trec_eval's, as everywhere in this package; measures that are not
here are measured by ir_measures, slowly.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from rerank.adjudication.budgets import Budget
from rerank.adjudication.ordering import Ordering
from rerank.adjudication.pools import Bools, Floats, Ints, Pool
from rerank.evaluation import Matrix, evaluate_all, parse_measures
from rerank.types import Qrels, Run

if TYPE_CHECKING:
    from ir_measures import Measure

#: Numbers that are held at a time.
_ROOM = 1 << 21


@dataclass(frozen=True, eq=False, slots=True)
class View:
    """What some budgets show of one topic.

    Attributes:
        found: (budgets, systems, ranks) grades of the retrieved documents; 0 where not judged, or below 0.
        judged: (budgets, docs) grades of the judged documents, likewise; the largest first.
    """

    found: Ints
    judged: Ints

    def relevant(self, grade: int) -> Floats:
        """(budgets,) how many judged documents are relevant."""
        return np.asarray((self.judged >= grade).sum(axis=1), dtype=np.float64)


Formula = Callable[[View, "Measure"], Floats]


class Measurer:
    """Runs, a pool and its grades, made ready for measuring.

    Args:
        pool: The pool that is judged; its systems are the runs.
        runs: The runs, whole.
        qrels: Gold judgments; what they say of the pool's documents is what a judge says.
        measures: Names, see `rerank.evaluation.parse_measures`.
        relevant: The lowest grade that binary measures count.
    """

    def __init__(
        self, pool: Pool, runs: Sequence[Run], qrels: Qrels, measures: Sequence[str], *, relevant: int = 1
    ) -> None:
        """Put grades in the runs' places."""
        self.pool = pool
        self.measures = parse_measures(measures, relevant=relevant)
        self.names = tuple(map(str, self.measures))
        self.topics = tuple(qrels)
        self._runs, self._qrels = runs, qrels
        self.gold = by_measure(qrels, runs, self.names)
        row = {topic: at for at, topic in enumerate(self.topics)}
        self._rows = [row[topic.id] for topic in pool.topics]
        self._grades = [
            np.array([max(0, qrels[topic.id].get(doc, 0)) for doc in topic.docs], dtype=np.int64)
            for topic in pool.topics
        ]
        self._lists = [self._placed(topic.id, topic.docs) for topic in pool.topics]

    @property
    def slow(self) -> tuple[str, ...]:
        """The measures that ir_measures computes, one budget at a time."""
        return tuple(name for name, m in zip(self.names, self.measures, strict=True) if formula_of(m) is None)

    def relevant_documents(self, grade: int) -> list[Bools]:
        """For every topic of the pool, (docs,) whether gold judges them at least of that grade."""
        return [grades >= grade for grades in self._grades]

    def measured(self, ordering: Ordering, budgets: Sequence[Budget]) -> Mapping[str, Floats]:
        """Measure all runs by what each budget pays for.

        Returns:
            Measure -> (budgets, topics, systems). Topics are gold's; one of which nothing is judged scores 0.
        """
        shape = (len(budgets), len(self.topics), len(self.pool.systems))
        values = {name: np.zeros(shape) for name in self.names}
        sizes = np.stack([ordering.sizes(budget) for budget in budgets])
        fast = [(name, m, f) for name, m in zip(self.names, self.measures, strict=True) if (f := formula_of(m))]
        for at, row in enumerate(self._rows):
            step = max(1, _ROOM // max(1, self._lists[at].size))
            for start in range(0, len(budgets), step) if fast else ():
                part = slice(start, start + step)
                view = self._view(at, ordering.docs[at], sizes[part, at])
                for name, measure, formula in fast:
                    values[name][part, row] = formula(view, measure)
        for at in range(len(budgets)) if self.slow else ():
            matrices = by_measure(self.cheap(ordering, sizes[at]), self._runs, self.slow)
            for name, matrix in matrices.items():
                values[name][at] = matrix.values
        return values

    def _view(self, at: int, order: Ints, sizes: Ints) -> View:
        """What (budgets,) first documents of an order show of a topic."""
        grades, lists = self._grades[at], self._lists[at]
        step = np.empty(len(order) + 1, dtype=np.int64)
        step[order] = np.arange(len(order))
        step[-1] = len(order)  # what is not in the pool is never judged
        graded = np.append(grades, 0)
        found = np.where(step[lists] < sizes[:, None, None], graded[lists], 0)
        judged = np.where(step[:-1] < sizes[:, None], grades, 0)
        return View(found, -np.sort(-judged, axis=1))

    def _placed(self, topic: str, docs: Sequence[str]) -> Ints:
        """(systems, ranks) the place in the pool of each retrieved document; -1 outside it and below the list."""
        place = {doc: at for at, doc in enumerate(docs)}
        lists = [run[topic].doc_ids if topic in run else () for run in self._runs]
        table = np.full((len(lists), max(map(len, lists))), -1, dtype=np.int64)
        for row, ids in zip(table, lists, strict=True):
            row[: len(ids)] = [place.get(doc, -1) for doc in ids]
        return table

    def cheap(self, ordering: Ordering, sizes: Ints) -> Qrels:
        """The judgments of some first documents of each topic; a topic without any holds a stand-in of grade 0."""
        table: dict[str, dict[str, int]] = {topic: {} for topic in self.topics}
        for topic, order, size in zip(self.pool.topics, ordering.docs, sizes, strict=True):
            ids = [topic.docs[doc] for doc in order[:size]]
            table[topic.id] = {doc: self._qrels[topic.id].get(doc, 0) for doc in ids}
        return Qrels({topic: judged or {"none": 0} for topic, judged in table.items()}, name="cheap judgments")


def by_measure(qrels: Qrels, runs: Sequence[Run], measures: Sequence[str]) -> dict[str, Matrix]:
    """The topic x system matrix of every measure, by ir_measures."""
    scores = evaluate_all(qrels, runs, measures)
    return {name: Matrix.from_scores(scores, name) for name in measures}


def formula_of(measure: Any) -> Formula | None:
    """How a measure is computed here; None if it is not."""
    formula = FORMULAS.get(measure.NAME)
    return formula if formula and not measure.params.keys() - {"cutoff", "rel"} else None


def _cut(values: Any, measure: Any) -> Any:
    return values[..., : measure.params.get("cutoff")]


def _ndcg(view: View, measure: Any) -> Floats:
    """Linear gains, discount log2(rank + 1)."""
    found, ideal = _cut(view.found, measure), _cut(view.judged, measure)
    discount = 1 / np.log2(np.arange(2, max(found.shape[-1], ideal.shape[-1]) + 2))
    best = ideal @ discount[: ideal.shape[-1]]
    return _shares(found @ discount[: found.shape[-1]], best)


def _ap(view: View, measure: Any) -> Floats:
    """Mean over all relevant documents of the precision where each is found."""
    hits = _cut(view.found, measure) >= measure["rel"]
    ranks = np.arange(1, hits.shape[-1] + 1)
    precision = np.where(hits, hits.cumsum(axis=-1) / ranks, 0.0)
    return _shares(precision.sum(axis=-1), view.relevant(measure["rel"]))


def _precision(view: View, measure: Any) -> Floats:
    return np.asarray((_cut(view.found, measure) >= measure["rel"]).sum(axis=-1) / measure["cutoff"])


def _recall(view: View, measure: Any) -> Floats:
    hits = (_cut(view.found, measure) >= measure["rel"]).sum(axis=-1, dtype=np.float64)
    return _shares(hits, view.relevant(measure["rel"]))


def _reciprocal_rank(view: View, measure: Any) -> Floats:
    hits = _cut(view.found, measure) >= measure["rel"]
    return np.where(hits.any(axis=-1), 1 / (1.0 + hits.argmax(axis=-1)), 0.0)


def _success(view: View, measure: Any) -> Floats:
    return np.asarray((_cut(view.found, measure) >= measure["rel"]).any(axis=-1), dtype=np.float64)


def _shares(values: Floats, wholes: Floats) -> Floats:
    """(budgets, systems) values over (budgets,) wholes; 0 where there is nothing to find."""
    return np.where(wholes[:, None] > 0, values / np.where(wholes > 0, wholes, 1.0)[:, None], 0.0)


#: ir_measures' name -> formula.
FORMULAS: dict[str, Formula] = {
    "nDCG": _ndcg,
    "AP": _ap,
    "P": _precision,
    "R": _recall,
    "RR": _reciprocal_rank,
    "Success": _success,
}
