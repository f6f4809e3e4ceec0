"""The `relevance_score` of results: calibrated probabilities where there are any, else scores made from ranks."""

from __future__ import annotations

from collections.abc import Sequence

from rerank.reranker.hits import Hit

#: Probabilities are clipped to [_MARGIN, 1 - _MARGIN].
_MARGIN = 1e-6
#: Relative decrease per rank. Clients sort by score, so equal probabilities would lose the order.
_STEP = 1e-9

#: Warning of answers whose scores are made from ranks.
RANK_BASED = (
    "relevance_score is 1 / rank: it shows the order and is no estimate of relevance. The method has no "
    "calibration (rerank calibrate)."
)


def compute_relevance_scores(hits: Sequence[Hit]) -> tuple[list[float], list[str]]:
    """Return the relevance score of each hit, strictly decreasing and in (0, 1], and warnings about them.

    A hit at rank r with the calibrated probability p gets p (1 - r 1e-9). Without a calibration it gets 1 / r.
    """
    probabilities = [hit.relevance for hit in hits if hit.relevance is not None]
    if len(probabilities) < len(hits):
        return [hit.rank_score for hit in hits], [RANK_BASED]
    return [
        min(max(probability, _MARGIN), 1 - _MARGIN) * (1 - hit.rank * _STEP)
        for hit, probability in zip(hits, probabilities, strict=True)
    ], []
