"""Coverage of a run by judgments, and bounds of its measures: the values possible if its documents were all judged.

The unjudged documents of a run within the measure's cutoff may have any grade from 0 to the highest grade of the
judgments. The bounds are the smallest and the largest value over all these completions of the judgments; documents that
the run does not retrieve within the cutoff keep the grade that they have, or 0. The width is the residual of Moffat and
Zobel, Rank-biased precision for measurement of retrieval effectiveness, TOIS 2008, which they define for measures that
can only rise with a grade. nDCG, AP and recall divide by an ideal value, which rises, too; their bounds account for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from rerank.evaluation.measures import is_summed_measure, parse_measures
from rerank.evaluation.scores import format_interval
from rerank.types import NOT_JUDGED, UNJUDGED, Qrels, Ranking, Run

if TYPE_CHECKING:
    from ir_measures import Measure

Floats = npt.NDArray[np.float64]
Bounds = tuple[float, float]

#: Judgments are thin for a measure if a run has a smaller mean fraction of judged documents within the cutoff.
THIN = 0.95
#: Cutoff of the fraction of judged documents for measures without a cutoff.
CUTOFF = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgmentCoverage:
    """How much of one run is judged, per measure, and how far complete judgments could change the measures."""

    cutoffs: Mapping[str, int]  #: Cutoff of each measure, or `CUTOFF` if it has none.
    #: Mean fraction of judged documents within the cutoff over judged queries with documents, or 1 if there are none.
    judged: Mapping[str, float]
    #: Means over queries of the smallest and largest values (`bound_measures`) of measures with computed bounds.
    bounds: Mapping[str, Bounds] = field(default_factory=dict)

    def columns(self, measures: Sequence[str]) -> dict[str, str]:
        """Return cells of a table by their headings: judged fractions, then bounds."""
        fractions = {f"judged@{self.cutoffs[name]}": f"{self.judged[name]:.4f}" for name in measures}
        bounded = [name for name in measures if name in self.bounds]
        return fractions | {f"{name} bounds": format_interval(*self.bounds[name], 4) for name in bounded}


def cover_runs_by_judgments(
    qrels: Qrels, runs: Sequence[Run], measures: Sequence[str], *, bounds: bool | None = None
) -> tuple[list[JudgmentCoverage], list[str]]:
    """Compute, for each run, the fraction of judged documents and the bounds of its measures.

    ``measures`` are named as ir_measures prints them; counts and ``Judged`` are ignored. ``bounds`` requests the bounds
    of all measures or none; by default, of those with thin judgments (`THIN`). The second result names the selected
    measures, which may have no bounds.
    """
    parsed = [m for m in parse_measures(measures) if m.NAME != "Judged" and not is_summed_measure(str(m))]
    cutoffs = {str(m): judged_cutoff(str(m)) for m in parsed}
    judged = []
    for run in runs:
        fractions: dict[int, list[float]] = {cutoff: [] for cutoff in cutoffs.values()}
        for query, grades in qrels.items():
            ranking = run.get(query)  # read once for all measures
            if ranking is not None and len(ranking):
                for cutoff, row in fractions.items():
                    docs = ranking.doc_ids[:cutoff]
                    row.append(sum(grades.get(doc, UNJUDGED) not in NOT_JUDGED for doc in docs) / len(docs))
        means = {cutoff: fmean(row) if row else 1.0 for cutoff, row in fractions.items()}
        judged.append({name: means[cutoff] for name, cutoff in cutoffs.items()})
    thin = [name for name in cutoffs if any(row[name] < THIN for row in judged)]
    chosen = thin if bounds is None else list(cutoffs) if bounds else []
    coverage = []
    for run, shares in zip(runs, judged, strict=True):
        bounded = bound_measures(qrels, run, chosen) if chosen else {}
        ends = {
            name: (fmean(low for low, _ in row.values()), fmean(high for _, high in row.values()))
            for name, row in bounded.items()
        }
        coverage.append(JudgmentCoverage(cutoffs=cutoffs, judged=shares, bounds=ends))
    return coverage, chosen


def judged_cutoff(measure: str) -> int:
    """Return the cutoff of a measure, or `CUTOFF` if it has none."""
    return int(parse_measures([measure])[0].params.get("cutoff", CUTOFF))


@dataclass(frozen=True, eq=False, slots=True)
class PartlyJudgedRanking:
    """The ranking of one query down to the cutoff of a measure, of which some documents are unjudged."""

    grades: npt.NDArray[np.int64]  #: (ranks,) grades of the documents; 0 for unjudged documents and negative grades.
    unjudged: npt.NDArray[np.bool_]  #: (ranks,) whether the document is unjudged.
    judged: npt.NDArray[np.int64]  #: (docs,) grades of all judged documents of the query, retrieved or not.
    highest: int  #: Highest grade of the judgments of all queries.

    @classmethod
    def of(
        cls, ranking: Ranking | None, judged: Mapping[str, int], highest: int, cutoff: int | None
    ) -> PartlyJudgedRanking:
        """Look up the grades of a ranking down to the cutoff; None is a ranking without documents."""
        docs = ranking.doc_ids[:cutoff] if ranking is not None else ()
        return cls(
            grades=np.array([max(0, judged.get(doc, 0)) for doc in docs], dtype=np.int64),
            unjudged=np.array([doc not in judged for doc in docs], dtype=bool),
            judged=np.array(list(judged.values()), dtype=np.int64),
            highest=highest,
        )

    def possible(self, grade: int) -> npt.NDArray[np.bool_]:
        """Return a (ranks,) array: unjudged documents that may reach the grade. None exceeds the highest grade."""
        return self.unjudged & (self.highest >= grade)

    def relevant(self, grade: int) -> tuple[Floats, Floats]:
        """Return two (ranks,) arrays of 0 and 1: documents known to be relevant, and those that may be."""
        known = self.grades >= grade
        return known.astype(np.float64), (known | self.possible(grade)).astype(np.float64)


def has_bounds(measure: Measure) -> bool:
    """Return whether a measure has a formula and a cutoff: deep ranks are hardly ever judged. RBP has ``rel``."""
    needed = "rel" if measure.NAME == "RBP" else "cutoff"
    return measure.NAME in FORMULAS and needed in measure.params and not measure.params.keys() - {"cutoff", "rel", "p"}


def bound_measures(
    qrels: Qrels, run: Run, measures: Iterable[str], *, relevant: int = 1
) -> dict[str, dict[str, Bounds]]:
    """Compute the smallest and largest value of each judged query if the run's unjudged documents were judged.

    Measures are named as `parse_measures` accepts them; those without bounds are omitted.
    """
    graded = qrels.judged()
    highest = max((grade for judged in graded.values() for grade in judged.values()), default=0)
    bounded = [*filter(has_bounds, parse_measures(measures, relevant=relevant))]
    bounds: dict[str, dict[str, Bounds]] = {str(measure): {} for measure in bounded}
    for query, judged in graded.items():
        ranking = run.get(query)  # read once for all measures
        for name, measure in zip(bounds, bounded, strict=True):
            formula, cutoff = FORMULAS[str(measure.NAME)], measure.params.get("cutoff")
            bounds[name][query] = formula(PartlyJudgedRanking.of(ranking, judged, max(1, highest), cutoff), measure)
    return bounds


def _bound_precision(ranking: PartlyJudgedRanking, measure: Any) -> Bounds:
    low, high = ranking.relevant(measure["rel"])
    return float(low.sum()) / measure["cutoff"], float(high.sum()) / measure["cutoff"]


def _bound_success(ranking: PartlyJudgedRanking, measure: Any) -> Bounds:
    low, high = ranking.relevant(measure["rel"])
    return float(low.any()), float(high.any())


def _bound_reciprocal_rank(ranking: PartlyJudgedRanking, measure: Any) -> Bounds:
    low, high = (1 / (1.0 + row.argmax()) if row.any() else 0.0 for row in ranking.relevant(measure["rel"]))
    return low, high


def _bound_rbp(ranking: PartlyJudgedRanking, measure: Any) -> Bounds:
    """Bound RBP = (1 - p) * (sum over ranks r of p^(r - 1) * relevance). Ranks after the last document count as 0."""
    weights = (1 - measure["p"]) * measure["p"] ** np.arange(len(ranking.grades))
    low, high = ranking.relevant(measure["rel"])
    return float(low @ weights), float(high @ weights)


def _bound_recall(ranking: PartlyJudgedRanking, measure: Any) -> Bounds:
    """Bound recall. A further relevant document adds 1 to numerator and denominator, which can only raise recall."""
    low, high = ranking.relevant(measure["rel"])
    total = int((ranking.judged >= measure["rel"]).sum())
    return _fraction(low.sum(), total), _fraction(high.sum(), total + ranking.possible(measure["rel"]).sum())


def _bound_average_precision(ranking: PartlyJudgedRanking, measure: Any) -> Bounds:
    """Bound AP: if j unjudged documents are relevant, AP is largest if these rank first, smallest if they rank last.

    Both values are computed for every j, by adding one document at a time to the sum of precisions. A new relevant
    document at rank h adds its own precision, and 1 / r for every relevant document below it, at rank r.
    """
    known, _ = ranking.relevant(measure["rel"])
    ranks = np.arange(1, len(known) + 1)
    hits = known.cumsum()  # (ranks,) known relevant documents down to the rank
    below = (known / ranks)[::-1].cumsum()[::-1]  # (ranks,) sum of 1 / r over known relevant documents from the rank on
    base = float((known * hits / ranks).sum())
    holes = ranking.possible(measure["rel"])
    h, hits, below = ranks[holes], hits[holes], below[holes]
    counts = np.arange(len(h) + 1)
    first = (hits + counts[1:]) / h + below
    last = ((hits + 1) / h + below)[::-1]
    last += (1 / h[::-1]).cumsum() - 1 / h[::-1]  # the unjudged documents further below, which are relevant already
    total = np.maximum((ranking.judged >= measure["rel"]).sum() + counts, 1)  # (counts,) relevant documents
    lowest, highest = ((base + np.append(0.0, added.cumsum())) / total for added in (last, first))
    return float(lowest.min()), float(highest.max())


def _bound_ndcg(ranking: PartlyJudgedRanking, measure: Any) -> Bounds:
    """Bound nDCG, whose ideal list contains the documents that are assumed to be relevant.

    Split gains into levels: a grade g is one unit on each of the levels 1 .. g. If a_t unjudged documents reach level
    t and J_t judged ones do, the ideal gains D(J_t + a_t) on this level, where D(n) is the sum of the first n discounts
    down to the cutoff. The list gains most if the documents are its first unjudged ones, U(a_t), and least if they are
    its last ones, L(a_t). Levels with the same J_t are computed together.

    - Smallest value: since J_t falls with t and L is convex, all levels have the same a_t; every value of a_t is tried.
    - Largest value: find the largest q with max_a (DCG(a) - q * ideal(a)) >= 0 by the iteration of Dinkelbach
      (Management Science 1967). Each level is maximised alone; a_t then falls with t, as it must.
    """
    cutoff = min(measure["cutoff"], len(ranking.grades) + len(ranking.judged))
    discount = 1 / np.log2(np.arange(2, cutoff + 2))
    ideal = np.append(0.0, discount.cumsum())  # (cutoff + 1,) D(n)
    holes = discount[: len(ranking.grades)][ranking.unjudged]  # (holes,) discounts of the unjudged documents
    counts = np.arange(len(holes) + 1)
    levels = np.unique(np.append(ranking.judged[ranking.judged > 0], ranking.highest))
    width = np.diff(levels, prepend=0)  # (levels,) number of levels with the same J_t
    reached = (ranking.judged[None] >= levels[:, None]).sum(axis=1)  # (levels,) J_t
    # (levels, counts) D(J_t + a)
    best = ideal[np.minimum(reached[:, None] + counts, cutoff)]
    gained = float(ranking.grades @ discount[: len(ranking.grades)])
    first, last = (np.append(0.0, row.cumsum()) for row in (holes, holes[::-1]))  # (counts,) U and L
    wholes = width @ best
    lowest = np.min(np.divide(gained + ranking.highest * last, wholes, out=np.ones(len(counts)), where=wholes > 0))
    if not wholes[0]:  # nothing is known to be relevant, so the value may be 0
        lowest = 0.0
    highest, previous = lowest, -1.0
    while highest > previous:
        chosen = np.argmax(first[None] - highest * best, axis=1)  # (levels,) a_t
        whole = width @ best[np.arange(len(levels)), chosen]
        previous, highest = highest, (gained + width @ first[chosen]) / whole if whole else highest
    return float(lowest), float(previous)


def _fraction(part: float, whole: float) -> float:
    return float(part / whole) if whole else 0.0


#: Formula of the bounds of each measure, by the name of the measure in ir_measures.
FORMULAS: dict[str, Callable[[PartlyJudgedRanking, Measure], Bounds]] = {
    "AP": _bound_average_precision,
    "P": _bound_precision,
    "R": _bound_recall,
    "RBP": _bound_rbp,
    "RR": _bound_reciprocal_rank,
    "Success": _bound_success,
    "nDCG": _bound_ndcg,
}
