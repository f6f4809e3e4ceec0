"""Pure functions that fuse several ranked lists of one query into one score per document."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rerank.types import Ranking


@dataclass(frozen=True, slots=True)
class FusionValues:
    """The values that one ranked list assigns to documents, before they are added to those of other lists.

    Attributes:
        values: Mapping from document id to value, for the documents of the list.
        missing: The value of documents that are not in the list.
    """

    values: Mapping[str, float]
    missing: float = 0.0

    def __getitem__(self, doc_id: str) -> float:
        """Return the value of a document, whether or not the list contains it."""
        return self.values.get(doc_id, self.missing)


def reciprocal_rank_fusion(ranking: Ranking, k: int = 60) -> FusionValues:
    """Return the values of one list for reciprocal rank fusion: ``1 / (k + r(d))``, and 0 for all other documents.

    ``r(d)`` is the rank of document d, from 1. The fused score is the sum of these values over all lists.
    Source: Cormack, Clarke and Büttcher, "Reciprocal Rank Fusion outperforms Condorcet and individual Rank Learning
    Methods", SIGIR 2009, where ``RRFscore(d)`` is the sum of these values over the lists, and k is 60.
    """
    return FusionValues({doc_id: 1.0 / (k + rank) for rank, doc_id in enumerate(ranking.doc_ids, 1)})


def min_max_fusion(ranking: Ranking) -> FusionValues:
    """Return the min-max normalized scores of one list, ``(s(d) - min) / (max - min)``, and 0 for all other documents.

    If all scores are equal, the value of each document of the list is 1.
    Source: Lee, "Analyses of Multiple Evidence Combination", SIGIR 1997.
    """
    if not _fused_scores_differ(ranking):
        return _hybrid_membership_fusion(ranking)
    scores = _scale_fused_scores(ranking.scores)
    low, span = scores[-1], scores[0] - scores[-1]
    return FusionValues({doc_id: (s - low) / span for doc_id, s in zip(ranking.doc_ids, scores, strict=True)})


def z_score_fusion(ranking: Ranking) -> FusionValues:
    """Return the z-scores of one list, ``(s(d) - mean) / deviation``, with the population standard deviation.

    Documents that are not in the list receive its lowest value, not 0, because 0 is the mean and would rank them above
    half of the list. If all scores are equal, the value is 1 for documents of the list and 0 for all others.
    Source: Montague and Aslam, "Relevance Score Normalization for Metasearch", CIKM 2001 (zero mean, unit variance).
    """
    if not _fused_scores_differ(ranking):
        return _hybrid_membership_fusion(ranking)
    scores = _scale_fused_scores(ranking.scores)
    mean = math.fsum(scores) / len(scores)
    deviation = math.sqrt(math.fsum((s - mean) ** 2 for s in scores) / len(scores))
    values = [(s - mean) / deviation for s in scores]
    return FusionValues(dict(zip(ranking.doc_ids, values, strict=True)), missing=values[-1])


def _fused_scores_differ(ranking: Ranking) -> bool:
    return len(ranking) > 0 and ranking.scores[0] > ranking.scores[-1]


def _scale_fused_scores(scores: Sequence[float]) -> list[float]:
    """Divide scores by their largest absolute value, so that differences and squares neither overflow nor underflow."""
    unit = max(abs(scores[0]), abs(scores[-1]))
    return [score / unit for score in scores]


def _hybrid_membership_fusion(ranking: Ranking) -> FusionValues:
    return FusionValues(dict.fromkeys(ranking.doc_ids, 1.0))


def weighted_fusion_sum(lists: Sequence[FusionValues], weights: Sequence[float]) -> dict[str, float]:
    """Return ``sum over lists i of w_i * v_i(d)`` for every document in any list.

    ``w_i`` is the weight of list i, and ``v_i(d)`` the value that the list assigns to document d.
    With all weights equal to 1, this is CombSUM (Fox and Shaw, "Combination of Multiple Searches", TREC-2, 1994).
    The sum is rounded once (`math.fsum`), so it does not depend on the order of the lists.
    """
    doc_ids = dict.fromkeys(doc_id for one_list in lists for doc_id in one_list.values)
    return {d: math.fsum(w * values[d] for w, values in zip(weights, lists, strict=True)) for d in doc_ids}
