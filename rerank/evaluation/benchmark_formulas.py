"""Formulas of benchmark-specific measures. Each function scores the ranked list of one query."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class JudgedRanking:
    """The ranked list of one query with its relevance judgments.

    Attributes:
        grades: (documents,) grades of the retrieved documents, best rank first; 0 if unjudged.
        scores: (documents,) scores of the retrieved documents, in non-increasing order.
        judged: (judgments,) grades of all judged documents, retrieved or not.
    """

    grades: npt.NDArray[np.int64]
    scores: npt.NDArray[np.float64]
    judged: npt.NDArray[np.int64]

    def hits(self, rel: int, cutoff: int) -> npt.NDArray[np.bool_]:
        """Return a boolean array of shape (min(documents, cutoff),): whether each document is relevant."""
        return np.asarray(self.grades[:cutoff] >= rel)

    def positives(self, rel: int) -> int:
        """Return R, the number of relevant documents in the judgments."""
        return int((self.judged >= rel).sum())

    def ends(self, cutoff: int) -> npt.NDArray[np.intp]:
        """Return an array of shape (groups,): the last rank, within the cutoff, of each group of tied documents."""
        scores = self.scores[:cutoff]
        return np.append(np.flatnonzero(np.diff(scores)) + 1, len(scores))


class RatioTerm(float):
    """One query's numerator and denominator in a micro-averaged measure. The float value is their quotient.

    Micro-averaged measures sum numerators and denominators over queries before dividing.

    Args:
        part: The numerator.
        whole: The denominator; if it is 0, the float value is 0.
    """

    __slots__ = ("part", "whole")
    part: float
    whole: float

    def __new__(cls, part: float, whole: float) -> RatioTerm:
        """Create the term and compute its quotient."""
        term = super().__new__(cls, part / whole if whole else 0.0)
        term.part, term.whole = part, whole
        return term


def inquire_ap(listed: JudgedRanking, rel: int, cutoff: int) -> float:
    """Compute average precision within the first k ranks, as the benchmark INQUIRE defines it.

    The value is 1 / min(R, k) times the sum, over groups of tied documents, of the number of hits in the group times
    the precision at the group's last rank. Without ties, this is the sum of the precision at every hit.

    Source: AP@k in INQUIRE's ``src/metrics.py``. It multiplies scikit-learn's ``average_precision_score`` of the first
    k documents by hits / min(R, k).
    """
    hits = listed.hits(rel, cutoff)
    if not hits.any():
        return 0.0
    # (groups,) last rank of each group of ties; without ties, every rank
    ends = listed.ends(cutoff)
    hits_so_far = np.cumsum(hits)[ends - 1]  # (groups,) number of hits up to the end of each group
    # sum over groups of (hits in the group) * (precision at its end)
    return float(np.sum(np.diff(hits_so_far, prepend=0) * hits_so_far / ends) / min(listed.positives(rel), cutoff))


def inquire_ndcg(listed: JudgedRanking, rel: int, cutoff: int) -> float:
    """Compute INQUIRE's nDCG@k: binary gain, discount log2(rank + 1), ideal list of min(R, k) relevant documents.

    Every document in a group of tied documents gets the mean gain of the group, which gives the expected value over
    all orders of the ties (McSherry and Najork, ECIR 2008).

    Source: nDCG in INQUIRE's ``src/metrics.py``. It appends the relevant documents that were not retrieved to the list
    and calls scikit-learn's ``ndcg_score``.
    """
    hits = listed.hits(rel, cutoff)
    if not hits.any():
        return 0.0
    best = min(listed.positives(rel), cutoff)
    # discounted[i] = sum of 1 / log2(rank + 1) over ranks 1 .. i + 1; gained = mean gain of each group
    discounted = np.cumsum(1 / np.log2(np.arange(2, max(len(hits), best) + 2)))
    ends = listed.ends(cutoff)
    gained = np.diff(np.cumsum(hits)[ends - 1], prepend=0) / np.diff(ends, prepend=0)
    return float(np.sum(gained * np.diff(discounted[ends - 1], prepend=0)) / discounted[best - 1])


def evaluate_t2ranking_recall(listed: JudgedRanking, rel: int, cutoff: int) -> RatioTerm:
    """Return one query's contribution to T2Ranking's Recall@k: the numbers of hits and of relevant documents.

    Recall@k is the sum of the hits over the run's queries, divided by the sum of the relevant documents.

    Source: ``src/msmarco_eval.py`` of T2Ranking.
    """
    return RatioTerm(float(listed.hits(rel, cutoff).sum()), float(listed.positives(rel)))


def t2ranking_rr(listed: JudgedRanking, rel: int, cutoff: int) -> RatioTerm:
    """Return one query's contribution to T2Ranking's MRR@k: 1 / rank of its first hit, and a denominator of 1.

    MRR@k is the mean of the reciprocal ranks over the run's queries.

    Source: ``src/msmarco_eval.py`` of T2Ranking.
    """
    hits = listed.hits(rel, cutoff)
    return RatioTerm(1 / (1 + int(hits.argmax())) if hits.any() else 0.0, 1.0)
