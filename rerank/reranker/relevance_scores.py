"""Computation of the `relevance_score` of results from calibrated probabilities or, without them, from ranks."""

from __future__ import annotations

from collections.abc import Sequence

from rerank.reranker.hits import Hit, Hits

#: Probabilities are clipped to [_MARGIN, 1 - _MARGIN].
_MARGIN = 1e-6
#: Relative decrease per rank. Clients sort by score, so the order of hits with equal probabilities would be lost.
_STEP = 1e-9

#: Warning for responses whose scores are computed from ranks.
RANK_BASED = (
    "relevance_score is 1 / rank: it shows the order and is not an estimate of relevance. The method has no "
    "calibration (rerank calibrate)."
)


def compute_relevance_scores(hits: Sequence[Hit]) -> tuple[list[float], list[str]]:
    """Return the relevance scores of the hits, strictly decreasing and in (0, 1], and warnings about the scores.

    The score of a hit at rank r with the calibrated probability p, clipped to [1e-6, 1 - 1e-6], is p (1 - 1e-9 r).
    Without a calibration, it is 1 / r.
    """
    probabilities = [hit.relevance for hit in hits if hit.relevance is not None]
    if len(probabilities) < len(hits):
        return [hit.rank_score for hit in hits], [RANK_BASED]
    return [
        min(max(probability, _MARGIN), 1 - _MARGIN) * (1 - hit.rank * _STEP)
        for hit, probability in zip(hits, probabilities, strict=True)
    ], []


def compute_pair_scores(lists: Sequence[Hits]) -> tuple[list[list[float]], list[str]]:
    """Return scores of (query, document) pairs from several lists, and warnings about the scores.

    The scores are calibrated probabilities. Without a calibration, they are the judge's own scores if these do not
    depend on other documents and every hit has one; otherwise they are 1 / rank in the list of the query.

    Args:
        lists: The hits of each query.

    Returns:
        For each list, the scores of its hits in their order; and the warnings.
    """
    hits = [hit for found in lists for hit in found]
    if (
        any(hit.relevance is None for hit in hits)
        and all(found.report.has_absolute_scores for found in lists)
        and all(hit.score is not None for hit in hits)
    ):
        kinds = ", ".join(dict.fromkeys(found.score_kind for found in lists))
        warning = f"The scores are the method's own ({kinds}), not probabilities, because it has no calibration."
        return [[hit.score for hit in found if hit.score is not None] for found in lists], [warning]
    scored = [compute_relevance_scores(found) for found in lists]
    return [scores for scores, _ in scored], list(dict.fromkeys(note for _, notes in scored for note in notes))
