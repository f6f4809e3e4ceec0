"""The formulas of benchmarks' own measures, over one query's list. Knows neither names nor runs nor ir_measures."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Listed:
    """One query's list beside its judgments.

    Attributes:
        grades: (documents,) the grade of each retrieved document, best first; 0 where it is not judged.
        scores: (documents,) their scores, none larger than the one before it.
        judged: (judgments,) the grades of all judged documents, retrieved or not.
    """

    grades: npt.NDArray[np.int64]
    scores: npt.NDArray[np.float64]
    judged: npt.NDArray[np.int64]

    def hits(self, rel: int, cutoff: int) -> npt.NDArray[np.bool_]:
        """(at most cutoff,) whether each of the first documents is relevant."""
        return np.asarray(self.grades[:cutoff] >= rel)

    def positives(self, rel: int) -> int:
        """R, the number of relevant documents that there are."""
        return int((self.judged >= rel).sum())

    def ends(self, cutoff: int) -> npt.NDArray[np.intp]:
        """(groups,) the rank of the last document of each group of equal scores, among the first documents."""
        scores = self.scores[:cutoff]
        return np.append(np.flatnonzero(np.diff(scores)) + 1, len(scores))


class Share(float):
    """A part of a whole, as a number: what is summed over queries is parts and wholes, each for itself.

    Args:
        part: What was reached.
        whole: What could have been; with 0 the share is 0.
    """

    __slots__ = ("part", "whole")
    part: float
    whole: float

    def __new__(cls, part: float, whole: float) -> Share:
        """Divide."""
        share = super().__new__(cls, part / whole if whole else 0.0)
        share.part, share.whole = part, whole
        return share


def inquire_ap(listed: Listed, rel: int, cutoff: int) -> float:
    """INQUIRE's AP@k: 1 / min(R, k) times the sum, over groups of equal scores, of hits in it * precision at its end.

    Without ties, the sum of the precision at every hit. A group of ties shares the precision at its last rank, as in
    scikit-learn. Source: AP@k in INQUIRE's ``src/metrics.py``, scikit-learn's ``average_precision_score`` of the first
    k documents times hits / min(R, k).
    """
    hits = listed.hits(rel, cutoff)
    if not hits.any():
        return 0.0
    ends = listed.ends(cutoff)
    found = np.cumsum(hits)[ends - 1]
    return float(np.sum(np.diff(found, prepend=0) * found / ends) / min(listed.positives(rel), cutoff))


def inquire_ndcg(listed: Listed, rel: int, cutoff: int) -> float:
    """INQUIRE's nDCG@k: gain 1 for a relevant document, discount log2(rank + 1), over the DCG of min(R, k) first hits.

    Every document of a group of equal scores gets the mean gain of the group, which is the mean over all orders of the
    ties (McSherry and Najork, ECIR 2008). Source: nDCG in INQUIRE's ``src/metrics.py``, scikit-learn's ``ndcg_score``
    of the list with the relevant documents that it lacks put below its end.
    """
    hits = listed.hits(rel, cutoff)
    if not hits.any():
        return 0.0
    best = min(listed.positives(rel), cutoff)
    discounted = np.cumsum(1 / np.log2(np.arange(2, max(len(hits), best) + 2)))  # of all ranks down to each
    ends = listed.ends(cutoff)
    gained = np.diff(np.cumsum(hits)[ends - 1], prepend=0) / np.diff(ends, prepend=0)
    return float(np.sum(gained * np.diff(discounted[ends - 1], prepend=0)) / discounted[best - 1])


def t2ranking_recall(listed: Listed, rel: int, cutoff: int) -> Share:
    """A query's part in T2Ranking's Recall@k: sum of hits / sum of relevant documents, both over the run's queries.

    Source: ``src/msmarco_eval.py`` of T2Ranking.
    """
    return Share(float(listed.hits(rel, cutoff).sum()), float(listed.positives(rel)))


def t2ranking_rr(listed: Listed, rel: int, cutoff: int) -> Share:
    """A query's part in T2Ranking's MRR@k: sum of 1 / rank of the first hit, over the number of the run's queries.

    Source: ``src/msmarco_eval.py`` of T2Ranking.
    """
    hits = listed.hits(rel, cutoff)
    return Share(1 / (1 + int(hits.argmax())) if hits.any() else 0.0, 1.0)
