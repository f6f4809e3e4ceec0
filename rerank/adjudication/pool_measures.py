"""Evaluation of runs with many sets of judgments of the same pool at once.

ir_measures evaluates one set of judgments at a time. In a study, runs and grades stay the same, and only the set of
judged documents changes. This module therefore maps grades to the ranks of the runs once and evaluates all budgets of a
judging order together. Measures are defined as in trec_eval. Those without a formula here are computed by ir_measures,
which is slower. Several runs of one stochastic system (repeats) count as one system.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from rerank.adjudication.pools import Bools, Floats, Ints, Pool, add_unjudged_documents, group_runs_by_name
from rerank.adjudication.walks import AdjudicationBudget, JudgingSequence
from rerank.evaluation import ScoreMatrix, evaluate_runs, parse_measures
from rerank.types import Qrels, Run

if TYPE_CHECKING:
    from ir_measures import Measure

#: Largest number of grades that are held in memory at the same time.
_BATCH_SIZE = 1 << 21


@dataclass(frozen=True, eq=False, slots=True)
class JudgedView:
    """Grades of one topic that are known under each of several budgets."""

    #: (budgets, systems, ranks) grades of retrieved documents; 0 if unjudged under a budget, or negative.
    found: Ints
    judged: Ints  # (budgets, docs) grades of the pool's documents, with the same rule for 0, in decreasing order

    def hits(self, measure: Any) -> Bools:
        """Return (budgets, systems, ranks) whether the document at each rank up to the cutoff is relevant."""
        return np.asarray(self.found[..., : measure.params.get("cutoff")] >= measure["rel"])

    def relevant(self, measure: Any) -> Floats:
        """Return (budgets,) the number of documents that are judged relevant."""
        return np.asarray((self.judged >= measure["rel"]).sum(axis=1), dtype=np.float64)


def _shares(values: Floats, wholes: Floats) -> Floats:
    """Divide (budgets, systems) values by the (budgets,) totals of each budget; 0 if the total is 0."""
    return np.where(wholes[:, None] > 0, values / np.where(wholes > 0, wholes, 1.0)[:, None], 0.0)


def _ndcg(view: JudgedView, measure: Any) -> Floats:
    """Compute nDCG with linear gain and discount log2(rank + 1)."""
    found, ideal = (grades[..., : measure.params.get("cutoff")] for grades in (view.found, view.judged))
    # (ranks,) discount of each rank
    discount = 1 / np.log2(np.arange(2, max(found.shape[-1], ideal.shape[-1]) + 2))
    best = ideal @ discount[: ideal.shape[-1]]  # (budgets,) DCG of the ideal list
    return _shares(found @ discount[: found.shape[-1]], best)


def _ap(view: JudgedView, measure: Any) -> Floats:
    hits = view.hits(measure)
    ranks = np.arange(1, hits.shape[-1] + 1)
    # (budgets, systems, ranks) precision at each hit
    precision = np.where(hits, hits.cumsum(axis=-1) / ranks, 0.0)
    return _shares(precision.sum(axis=-1), view.relevant(measure))


def _reciprocal_rank(view: JudgedView, measure: Any) -> Floats:
    hits = view.hits(measure)
    # argmax is the index of the first hit; it is also 0 if there is no hit
    return np.where(hits.any(axis=-1), 1 / (1.0 + hits.argmax(axis=-1)), 0.0)


#: A formula returns the (budgets, systems) values of a measure on one topic.
Formula = Callable[[JudgedView, "Measure"], Floats]
#: Formula of each measure, by its name in ir_measures.
FORMULAS: dict[str, Formula] = {
    "nDCG": _ndcg,
    "AP": _ap,
    "P": lambda view, measure: np.asarray(view.hits(measure).sum(axis=-1) / measure["cutoff"]),
    "R": lambda view, measure: _shares(view.hits(measure).sum(axis=-1, dtype=np.float64), view.relevant(measure)),
    "RR": _reciprocal_rank,
    "Success": lambda view, measure: np.asarray(view.hits(measure).any(axis=-1), dtype=np.float64),
}


def find_formula(measure: Any) -> Formula | None:
    """Return the formula of a measure, or None if ir_measures must compute it."""
    formula = FORMULAS.get(measure.NAME)
    return formula if formula and not measure.params.keys() - {"cutoff", "rel"} else None


def score_matrices(qrels: Qrels, runs: Sequence[Run], measures: Sequence[str]) -> dict[str, ScoreMatrix]:
    """Return the (topics, systems) score matrix of each measure, computed by ir_measures."""
    scores = evaluate_runs(qrels, runs, measures)
    return {name: ScoreMatrix.from_scores(scores, name) for name in measures}


class Measurer:
    """Evaluator of runs with the judgments that different budgets cover.

    Other runs may have contributed to the pool. ``repeats`` are pairs of the name of a system and a shell pattern for
    the names of its runs, which are repeats of the system; by default, every run is a system.
    """

    def __init__(
        self,
        pool: Pool,
        runs: Sequence[Run],
        qrels: Qrels,
        measures: Sequence[str],
        *,
        relevant: int = 1,
        repeats: Sequence[tuple[str, str]] = (),
    ) -> None:
        self.pool = pool
        self.repeats = SystemRepeats.match([run.name for run in runs], repeats)
        self.measures = parse_measures(measures, relevant=relevant)
        self.names = tuple(map(str, self.measures))
        self.topics = tuple(qrels)
        self._runs, self._qrels = runs, qrels
        self.run_scores = score_matrices(qrels, runs, self.names)
        self.gold = {name: self.repeats.average_matrix(matrix) for name, matrix in self.run_scores.items()}
        row = {topic: index for index, topic in enumerate(self.topics)}
        self._rows = [row[topic.id] for topic in pool.topics]
        self._grades = [
            np.array([max(0, qrels[topic.id].get(doc, 0)) for doc in topic.docs], dtype=np.int64)
            for topic in pool.topics
        ]
        # per topic, (runs, ranks) pool index of the document at each rank, or -1 if not pooled
        self._lists = []
        for topic in pool.topics:
            index = {doc: position for position, doc in enumerate(topic.docs)}
            lists = [run[topic.id].doc_ids if topic.id in run else () for run in runs]
            table = np.full((len(lists), max(map(len, lists))), -1, dtype=np.int64)
            for places, ids in zip(table, lists, strict=True):
                places[: len(ids)] = [index.get(doc, -1) for doc in ids]
            self._lists.append(table)

    @property
    def systems(self) -> tuple[str, ...]:
        """Names of the systems, whose scores are averaged over their runs."""
        return self.repeats.systems

    @property
    def slow(self) -> tuple[str, ...]:
        return tuple(name for name, m in zip(self.names, self.measures, strict=True) if find_formula(m) is None)

    def relevant_documents(self, grade: int) -> list[Bools]:
        """Return, for every topic of the pool, (docs,) whether gold grade >= ``grade``."""
        return [grades >= grade for grades in self._grades]

    def measure(self, ordering: JudgingSequence, budgets: Sequence[AdjudicationBudget]) -> Mapping[str, Floats]:
        """Evaluate all runs once per budget, with only the judgments that the budget covers.

        The scores of each measure have shape (budgets, topics, systems), with the topics of the gold judgments. All
        systems score 0 on a topic without judgments.
        """
        shape = (len(budgets), len(self.topics), len(self._runs))
        values = {name: np.zeros(shape) for name in self.names}
        # (budgets, topics) number of judged documents
        sizes = np.stack([ordering.sizes(budget) for budget in budgets])
        fast = [(name, m, f) for name, m in zip(self.names, self.measures, strict=True) if (f := find_formula(m))]
        # topics outside the pool keep the score 0
        for index, row in enumerate(self._rows):
            step = max(1, _BATCH_SIZE // max(1, self._lists[index].size))
            for start in range(0, len(budgets), step) if fast else ():
                batch = slice(start, start + step)
                view = self._view(index, ordering.docs[index], sizes[batch, index])
                for name, measure, formula in fast:
                    values[name][batch, row] = formula(view, measure)
        for index in range(len(budgets)) if self.slow else ():
            for name, matrix in score_matrices(self.cheap(ordering, sizes[index]), self._runs, self.slow).items():
                values[name][index] = matrix.values
        return {name: self.repeats.average(scores) for name, scores in values.items()}

    def _view(self, index: int, order: Ints, sizes: Ints) -> JudgedView:
        """Return the grades of a topic that are known after judging the first of its (docs,) ordered documents."""
        grades, lists = self._grades[index], self._lists[index]
        position = np.empty(len(order) + 1, dtype=np.int64)
        position[order] = np.arange(len(order))
        position[-1] = len(order)  # documents outside the pool are never judged
        # index -1 (outside the pool, or beyond the end of a list) selects the appended entry: never judged, grade 0
        graded = np.append(grades, 0)
        # a document is judged if its position in the judging order is below the budget
        found = np.where(position[lists] < sizes[:, None, None], graded[lists], 0)
        return JudgedView(found, -np.sort(-np.where(position[:-1] < sizes[:, None], grades, 0), axis=1))

    def cheap(self, ordering: JudgingSequence, sizes: Ints) -> Qrels:
        """Return the judgments of the first ``sizes`` documents per topic, or of a placeholder; others are unjudged."""
        table: dict[str, dict[str, int]] = {topic: {} for topic in self.topics}
        for topic, order, size in zip(self.pool.topics, ordering.docs, sizes, strict=True):
            ids = [topic.docs[doc] for doc in order[:size]]
            table[topic.id] = {doc: self._qrels[topic.id].get(doc, 0) for doc in ids}
        qrels = Qrels({topic: judged or {"none": 0} for topic, judged in table.items()}, name="cheap judgments")
        return add_unjudged_documents(qrels, self.pool)


@dataclass(frozen=True, eq=False, kw_only=True)
class SystemRepeats:
    """Assignment of runs to systems. A system's score on a topic is the mean over its runs."""

    names: tuple[str, ...]
    systems: tuple[str, ...]
    runs: tuple[tuple[int, ...], ...]  # for every system, the indices of its runs

    @classmethod
    def match(cls, names: Sequence[str], patterns: Sequence[tuple[str, str]]) -> SystemRepeats:
        members = group_runs_by_name(names, patterns, fewest=2)
        return cls(names=tuple(names), systems=tuple(members), runs=tuple(map(tuple, members.values())))

    def contributed(self, pooled: Container[str]) -> Bools:
        """Return (systems,) whether any run of the system is named in ``pooled``."""
        return np.array([any(self.names[run] in pooled for run in runs) for runs in self.runs])

    def average(self, values: Floats) -> Floats:
        """Average (..., runs) scores over the runs of each system."""
        if all(len(runs) == 1 for runs in self.runs):
            return values
        return np.stack([values[..., list(runs)].mean(axis=-1) for runs in self.runs], axis=-1)

    def average_matrix(self, matrix: ScoreMatrix) -> ScoreMatrix:
        return replace(matrix, systems=self.systems, values=self.average(matrix.values))

    def describe(self, matrices: Mapping[str, ScoreMatrix]) -> list[dict[str, Any]]:
        """Return a row per repeated system and measure: the variation between its runs, given the scores of the runs.

        ``sd_of_means`` is that of the runs' means, ``sd_per_topic`` the root of the mean over topics of their variance.
        """
        rows = []
        for system, runs in zip(self.systems, self.runs, strict=True):
            for measure, matrix in matrices.items() if len(runs) > 1 else ():
                values = matrix.values[:, list(runs)]  # (topics, repeats)
                rows.append(
                    {
                        "system": system,
                        "runs": len(runs),
                        "measure": measure,
                        "mean": float(values.mean()),
                        "sd_of_means": float(values.mean(axis=0).std(ddof=1)),
                        "sd_per_topic": float(values.var(axis=1, ddof=1).mean() ** 0.5),
                    }
                )
        return rows
