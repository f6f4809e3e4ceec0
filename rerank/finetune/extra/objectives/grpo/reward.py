"""What a written order is worth: nDCG of the order that its reader makes of it. Knows texts and labels, no model."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rerank.finetune.labels.training_list import TrainingList
from rerank.judges import FAILURES
from rerank.judges.generate import verdict
from rerank.tasks import Reply
from rerank.types import Order


def gains(given: TrainingList) -> tuple[float, ...]:
    """What each document of a list is worth, in the order of its documents.

    The teacher's scores, where they can be grades: whole numbers from 0 up, not all 0, that never rise along the
    label. They count as they are, as in trec_eval. Other scores (cosines, logits, BM25's) have a scale of their own, on
    which a ratio of gains means nothing; then, and where there are none, a document is worth 1/rank under the label.
    So the label's own order has the best value in either case.

    >>> from rerank.types import Document, Query
    >>> docs = tuple(Document(id=name) for name in "abc")
    >>> gains(TrainingList(query=Query(id="q"), docs=docs, order=(1, 0, 2)))
    (0.5, 1.0, 0.3333333333333333)
    >>> gains(TrainingList(query=Query(id="q"), docs=docs, order=(1, 0, 2), scores=(2, 3, 0)))
    (2.0, 3.0, 0.0)
    """
    falling = [given.scores[at] for at in given.order] if given.scores else []
    whole = all(score >= 0 and float(score).is_integer() for score in falling)
    if any(falling) and whole and falling == sorted(falling, reverse=True):
        return tuple(map(float, given.scores))
    return tuple(1 / rank for rank in given.ranks)


def ndcg(order: Order, worth: Sequence[float], cutoff: int) -> float:
    """DCG of an order over the best that there is: DCG = sum over ranks i up to the cutoff of gain_i / log2(i + 1).

    >>> round(ndcg((1, 0), (3.0, 1.0), 10), 4)
    0.7967
    """
    best = _dcg(sorted(worth, reverse=True), cutoff)
    return _dcg([worth[at] for at in order], cutoff) / best


def reward(text: str, worth: Sequence[float], *, labels: Sequence[str], cutoff: int) -> float:
    """What a reply is worth, from 0 to 1.

    It is read as at inference (`rerank.judges.generate`): repeats and identifiers that do not exist are dropped,
    documents that it does not name follow in the order in which they were shown. One that names none is worth 0.

    Args:
        text: The reply, with the beginning that the prompt gave it.
        worth: See `gains`.
        labels: What the documents were called.
        cutoff: Ranks that count.
    """
    said = verdict(Reply(text=text), len(worth), labels=labels)
    return 0.0 if said.status in FAILURES else ndcg(said.order, worth, cutoff)


def _dcg(worth: Sequence[float], cutoff: int) -> float:
    return sum(gain / math.log2(rank + 1) for rank, gain in enumerate(worth[:cutoff], 1))
