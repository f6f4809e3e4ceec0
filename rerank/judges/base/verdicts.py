"""Verdicts on windows, which contain an order, a status and scores, and functions that derive orders from scores."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from rerank.tasks import Reply
from rerank.types import Order

#: Status of a judged window. ``ok``: the reply is a permutation in the requested form. ``repaired``: it is complete
#: after dropping duplicate and unknown identifiers, or was written in another form. ``partial``: missing identifiers
#: were appended. ``empty``: the reply has no identifier or cannot be parsed. ``refused``: the reply has no identifier
#: and declines to answer. ``error``: no reply arrived.
Status = Literal["ok", "repaired", "partial", "empty", "refused", "error"]
STATUSES: tuple[Status, ...] = get_args(Status)
#: Statuses that give no information about the documents. The window keeps its order and counts as a failure.
FAILURES: frozenset[Status] = frozenset({"empty", "refused", "error"})


@dataclass(frozen=True, slots=True)
class ScoreKind:
    """The meaning of a judge's scores.

    Attributes:
        name: The quantity, such as ``log-likelihood of the query``; a larger score means more relevant.
        scope: ``absolute`` if scores from different windows can be compared; ``within`` if a score depends on the other
            documents of its window.
    """

    name: str
    scope: Literal["absolute", "within"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The order of one window and how it was obtained.

    Attributes:
        order: A permutation of the window's positions; the identity permutation if the replies contain no order.
        status: Status of the replies.
        detail: Description of the repairs or of the failure; empty if there was neither.
        scores: One score per document, in the order of the window; None for documents without a score. Empty if the
            judge does not assign scores.
    """

    order: Order
    status: Status
    detail: str = ""
    scores: tuple[float | None, ...] = ()


def rank_window_by_score(scores: Sequence[float], count: int) -> Verdict:
    """Order a window by decreasing score; ties keep the input order.

    Args:
        scores: One score per document.
        count: Number of documents in the window.

    Returns:
        The verdict with the scores. If the number of scores is wrong or a score is NaN, its status is ``empty``, and it
        contains the input order and no scores.

    >>> rank_window_by_score((0.1, 0.7, 0.1), 3).order
    (1, 0, 2)
    """
    positions = tuple(range(count))
    if len(scores) != count:
        return Verdict(order=positions, status="empty", detail=f"{len(scores)} scores for {count} documents")
    if any(score != score for score in scores):  # NaN, which cannot be sorted
        return Verdict(order=positions, status="empty", detail="the model returned a score that is not a number")
    order = tuple(sorted(positions, key=lambda position: -scores[position]))
    return Verdict(order=order, status="ok", scores=tuple(scores))


def window_z_scores(scores: Sequence[float]) -> list[float]:
    """Return (score - mean) / population standard deviation for each score; all 0 if the scores are equal.

    Mean and deviation are those of the finite scores; infinite scores are returned unchanged.

    >>> window_z_scores([1.0, 3.0, -math.inf])
    [-1.0, 1.0, -inf]
    """
    finite = [score for score in scores if math.isfinite(score)]
    if max(map(abs, finite), default=0.0) > 1e100:  # the squares could overflow
        return window_z_scores([score / 1e200 for score in scores])
    mean, deviation = 0.0, 0.0
    if len(set(finite)) > 1:  # the rounded mean of equal scores may differ from them
        mean = sum(finite) / len(finite)
        deviation = (sum((score - mean) ** 2 for score in finite) / len(finite)) ** 0.5
    return [score if math.isinf(score) else (score - mean) / deviation if deviation else 0.0 for score in scores]


def failed_judge_verdict(replies: Sequence[Reply], count: int) -> Verdict | None:
    """Return the verdict on a window if one of its replies is missing, refused or unreadable; otherwise None.

    A missing reply takes precedence, since a resumed run repeats its request.
    """
    failed = [reply for reply in replies if reply.error or reply.finish in ("error", "refused")]
    if not failed:
        return None
    reply = next((reply for reply in failed if reply.finish == "error"), failed[0])
    status: Status = reply.finish if reply.finish in ("error", "refused") else "empty"
    detail = reply.error or "the provider refused to answer"
    return Verdict(order=tuple(range(count)), status=status, detail=detail)
