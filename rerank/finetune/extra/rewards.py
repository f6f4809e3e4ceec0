"""The reward of GRPO: nDCG of the ranking that is parsed from a reply."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rerank.finetune.labels.lists import TrainingList
from rerank.judges import FAILURES
from rerank.judges.generate import parse_verdict
from rerank.tasks import Reply
from rerank.types import Order


def compute_gains(training_list: TrainingList) -> tuple[float, ...]:
    """Return the gain of each document of a list, in the order of its documents.

    If the teacher's scores can be grades, they are the gains, without transformation, as in trec_eval. Scores can be
    grades if they are nonnegative integers, not all 0, and do not increase from one rank of the label to the next.
    Other scores (cosines, logits, BM25) have an arbitrary scale, on which ratios of gains have no meaning. For such
    scores, and if there are no scores, the gain of a document is 1/rank under the label. In either case, the labelled
    order has the highest reward.

    >>> from rerank.types import Document, Query
    >>> docs = tuple(Document(id=name) for name in "abc")
    >>> compute_gains(TrainingList(query=Query(id="q"), docs=docs, order=(1, 0, 2)))
    (0.5, 1.0, 0.3333333333333333)
    >>> compute_gains(TrainingList(query=Query(id="q"), docs=docs, order=(1, 0, 2), scores=(2, 3, 0)))
    (2.0, 3.0, 0.0)
    """
    by_label = [training_list.scores[index] for index in training_list.order] if training_list.scores else []
    are_grades = all(score >= 0 and float(score).is_integer() for score in by_label)
    if any(by_label) and are_grades and by_label == sorted(by_label, reverse=True):
        return tuple(map(float, training_list.scores))
    return tuple(1 / rank for rank in training_list.ranks)


def compute_ndcg(order: Order, gains: Sequence[float], cutoff: int) -> float:
    """Return DCG / ideal DCG of an order, where DCG = sum of gain_i / log2(i + 1) over the ranks i up to the cutoff.

    >>> round(compute_ndcg((1, 0), (3.0, 1.0), 10), 4)
    0.7967
    """

    def dcg(ordered: Sequence[float]) -> float:
        return sum(gain / math.log2(rank + 1) for rank, gain in enumerate(ordered[:cutoff], 1))

    return dcg([gains[index] for index in order]) / dcg(sorted(gains, reverse=True))


def compute_reward(text: str, gains: Sequence[float], *, labels: Sequence[str], cutoff: int) -> float:
    """Return the reward of a reply, from 0 to 1.

    The reply is parsed as at inference (`rerank.judges.generate`): repeated and unknown identifiers are dropped, and
    missing documents follow in the order in which they were shown. A reply without any identifier has the reward 0.

    Args:
        gains: Gain of each document, from `compute_gains`.
        labels: Identifiers (labels) of the documents in the prompt, in the order in which they were shown.
    """
    parsed = parse_verdict(Reply(text=text), len(gains), labels=labels)
    return 0.0 if parsed.status in FAILURES else compute_ndcg(parsed.order, gains, cutoff)
