"""Runs whose documents have known probabilities of relevance."""

from __future__ import annotations

import random
from collections.abc import Callable

from rerank.calibration import RankedCollection
from rerank.calibration.models import sigmoid
from rerank.types import Document, Qrels, Query, Ranking, Run


def true_probability(judge: float, first_stage: float) -> float:
    """Between .04 and .74: the scores are informative, but their sigmoid is far from a probability."""
    return 0.04 + 0.7 * sigmoid(3 * (judge + 0.1 * (first_stage - 10)) - 3)


def make_collection(
    *,
    queries: int = 60,
    depth: int = 20,
    seed: int = 0,
    name: str = "synthetic",
    kind: str = "log-odds",
    truth: Callable[[float, float], float] = true_probability,
) -> RankedCollection:
    """Return a run sorted by the judge's scores, and labels drawn from the true probabilities."""
    draw = random.Random(seed)
    first, final, judge, grades = [], [], {}, {}
    for q in range(queries):
        query = Query(id=f"q{q}")
        stage = {f"d{n}": round(draw.gauss(10, 3), 4) for n in range(depth)}
        scores = {doc: draw.gauss(0, 1) for doc in stage}
        first.append(Ranking.from_scores(query, [(Document(id=doc), score) for doc, score in stage.items()]))
        final.append(
            Ranking.from_order(query, [Document(id=doc) for doc in sorted(scores, key=scores.__getitem__)[::-1]])
        )
        judge[query.id] = dict(scores)
        grades[query.id] = {doc: int(draw.random() < truth(scores[doc], stage[doc])) for doc in stage}
    return RankedCollection(
        name=name, run=Run(final), first_stage=Run(first), kind=kind, judge=judge, qrels=Qrels(grades)
    )
