"""The `relevance_score` of results: calibrated probabilities where there are any, else scores made from ranks."""

from __future__ import annotations

from collections.abc import Sequence

from rerank.reranker.hits import Hit, Hits

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


def compute_pair_scores(lists: Sequence[Hits]) -> tuple[list[list[float]], list[str]]:
    """Return scores of pairs of a query and a document, which need not belong to one list, and warnings about them.

    They are calibrated probabilities. Without a calibration they are the judge's own scores, if these do not depend on
    other documents and every hit has one; otherwise 1 / rank in the list of the query.

    Args:
        lists: The hits of each query.

    Returns:
        For each list, the scores of its hits in their order.
    """
    hits = [hit for found in lists for hit in found]
    if (
        any(hit.relevance is None for hit in hits)
        and all(found.report.has_absolute_scores for found in lists)
        and all(hit.score is not None for hit in hits)
    ):
        kinds = ", ".join(dict.fromkeys(found.score_kind for found in lists))
        warning = f"The scores are the method's own ({kinds}) and no probabilities: it has no calibration."
        return [[hit.score for hit in found if hit.score is not None] for found in lists], [warning]
    scored = [compute_relevance_scores(found) for found in lists]
    return [scores for scores, _ in scored], list(dict.fromkeys(note for _, notes in scored for note in notes))
