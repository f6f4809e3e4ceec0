"""Attention heads chosen on a few judged queries, for attention rerankers: QRHead and CoRe.

Knows what makes a head a good one; how weights are read off a model and how lists are kept is elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray

from rerank.errors import BackendError, DataError, UnknownNameError, UsageError
from rerank.evaluation import evaluate_all
from rerank.experiment.candidates import shuffled
from rerank.experiment.prepare import Prepared, prepare
from rerank.experiment.spec import Execution, RunSpec
from rerank.judges.attention import Attention
from rerank.judges.attention.heads import HeadList, of_model
from rerank.store.calls import CallLog
from rerank.store.logged import Logged
from rerank.tasks import Reply
from rerank.types import Qrels, Ranking, Run, Window

Weights = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """How heads are chosen.

    Attributes:
        method: ``qrhead``, ``qrhead-ndcg`` or ``core``.
        count: How many to keep; None for the method's own number.
        tau: Temperature of ``core``; the paper's values lie between 0.1 and 0.001, by model.

    Raises:
        UnknownNameError: No such method.
        UsageError: A number out of its range.
    """

    method: str = "qrhead"
    count: int | None = None
    tau: float = 0.1

    def __post_init__(self) -> None:
        """Check what can be checked without a model."""
        if self.method not in METHODS:
            raise UnknownNameError("way of choosing heads", self.method, METHODS)
        if (self.count is not None and self.count < 1) or self.tau <= 0:
            raise UsageError(f"{self.count} heads with tau {self.tau}", expected="at least 1, and a tau above 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Seen:
    """One query as every head sees it.

    Attributes:
        ranking: Its passages in the order that they were asked about.
        weights: (layers, heads, passages).
        gold: (passages,) which of them are relevant.
    """

    ranking: Ranking
    weights: Weights
    gold: NDArray[np.bool_]


def gold_mass(weights: Weights, gold: NDArray[np.bool_]) -> Weights:
    """QRHead's score of each head for one query: the attention that its rows pay to relevant passages.

    QRscore_h = 1/|q| sum over relevant passages d, query tokens i and tokens t of d of A_h[i, t] (Zhang et al., EMNLP
    2025, arXiv 2506.09944, equation 3).

    Args:
        weights: (layers, heads, passages), the mean over query tokens, summed over the passage's tokens.
        gold: (passages,).

    Returns:
        (layers, heads).
    """
    return cast(Weights, weights[:, :, gold].sum(axis=2))


def contrast(weights: Weights, gold: NDArray[np.bool_], *, tau: float) -> Weights:
    """CoRe's score of each head for one query: how far a relevant passage stands out from the irrelevant ones.

    S_h = exp(m_p / tau) / (exp(m_p / tau) + sum over irrelevant n of exp(m_n / tau)), the mean over relevant passages p
    (Tran et al., arXiv 2510.02219).

    Args:
        weights: (layers, heads, passages).
        gold: (passages,).
        tau: Temperature.

    Returns:
        (layers, heads).
    """
    scaled = weights / tau
    scores = []
    for place in np.flatnonzero(gold):
        # As 1 / (1 + sum exp(m_n - m_p)), which cannot overflow to nan.
        with np.errstate(over="ignore"):
            others = np.exp(scaled[:, :, ~gold] - scaled[:, :, place, None]).sum(axis=2)
        scores.append(1 / (1 + others))
    return cast(Weights, np.mean(scores, axis=0))


def own_ndcg(seen: Sequence[_Seen], qrels: Qrels) -> Weights:
    """nDCG@10 of the ranking that each head alone would make, as QRHead's authors choose heads for BEIR (their code).

    Returns:
        (layers, heads), the mean over queries.
    """
    layers, heads, _ = seen[0].weights.shape
    runs = [Run(_ranked(s, s.weights[at]) for s in seen) for at in np.ndindex(layers, heads)]
    judged = Qrels({s.ranking.query.id: qrels[s.ranking.query.id] for s in seen})
    means = [float(next(iter(scores.summary().values()))) for scores in evaluate_all(judged, runs, ["nDCG@10"])]
    return np.array(means).reshape(layers, heads)


def _ranked(seen: _Seen, scores: Weights) -> Ranking:
    return Ranking.from_scores(seen.ranking.query, zip(seen.ranking.docs, map(float, scores), strict=True))


def _mean(score: Callable[[Weights, NDArray[np.bool_]], Weights], seen: Sequence[_Seen]) -> Weights:
    return cast(Weights, np.mean([score(s.weights, s.gold) for s in seen], axis=0))


@dataclass(frozen=True, slots=True)
class _Method:
    """A way of choosing: how many heads its authors keep, whether it looks at calibrated weights, its source."""

    count: int
    calibrated: bool
    score: Callable[[Sequence[_Seen], Qrels, float], Weights]


METHODS: Mapping[str, _Method] = {
    "qrhead": _Method(16, False, lambda seen, qrels, tau: _mean(gold_mass, seen)),
    "qrhead-ndcg": _Method(16, True, lambda seen, qrels, tau: own_ndcg(seen, qrels)),
    "core": _Method(8, False, lambda seen, qrels, tau: _mean(partial(contrast, tau=tau), seen)),
}


def select_heads(
    spec: RunSpec,
    execution: Execution,
    choice: Choice,
    *,
    log: Path,
    on_reply: Callable[[Reply], None] = lambda reply: None,
) -> HeadList:
    """Choose heads by what they attend to on the judged queries of a specification.

    Args:
        spec: Collection, first stage, depth, order, model and prompt; its method does not count.
        execution: How it is run.
        choice: How heads are chosen.
        log: File that keeps what the model answered, so that another choice or a second try asks nothing twice.
        on_reply: Called after each query.

    Raises:
        DataError: No query has a relevant and an irrelevant candidate.
        BackendError: The model could not answer for any query.
        UsageError: The model's attention cannot be read.
    """
    method = METHODS[choice.method]
    asked = spec.model_copy(update={"method": f"icr,calibrate={str(method.calibrated).lower()}"})
    prepared = prepare(asked, execution)
    seen, skipped = _look(prepared, log, on_reply)
    scores = method.score(seen, prepared.qrels, choice.tau)
    best = np.argsort(-scores, axis=None, kind="stable")[: choice.count or method.count]
    heads = [(int(at) // scores.shape[1], int(at) % scores.shape[1]) for at in best]
    details = {
        "collection": prepared.collection.name,
        "first_stage": spec.first_stage,
        "depth": spec.depth,
        "order": spec.shuffle,
        "seed": spec.seed,
        "relevant": prepared.relevant,
        "prompt": prepared.template.name,
        "queries": len(seen),
        "queries_skipped": skipped,
        **({"tau": choice.tau} if choice.method == "core" else {}),
        "scores": [float(scores[head]) for head in heads],
        "median_score": float(np.median(scores)),
    }
    model = of_model(prepared.backend.identity)
    return HeadList(heads=tuple(heads), model=model, method=choice.method, details=details)


def _look(prepared: Prepared, log: Path, on_reply: Callable[[Reply], None]) -> tuple[list[_Seen], int]:
    """Ask about every query that can tell heads apart; return what was seen and how many queries could not."""
    lists = shuffled(prepared.first_stage, prepared.spec).values()
    pairs = [(ranking, _gold(ranking, prepared)) for ranking in lists]
    useful = [(ranking, gold) for ranking, gold in pairs if gold.any() and not gold.all()]
    if not useful:
        raise DataError(
            f"None of the {len(pairs)} queries has both a relevant and an irrelevant document among its candidates",
            expected="judged queries and candidates that tell a good head from another",
            remedy="Take more queries or a larger --depth",
        )
    with CallLog(log) as calls:
        judge = cast(Attention, prepared.judge(Logged(backend=prepared.backend, log=calls, on_reply=on_reply)))
        windows = [Window(ranking.query, ranking.docs) for ranking, _ in useful]
        replies = judge.backend.generate([judge.request(window, per_head=True) for window in windows])
    seen = [
        _Seen(ranking=ranking, weights=_weights(reply, len(ranking)), gold=gold)
        for (ranking, gold), reply in zip(useful, replies, strict=True)
        if reply.finish != "error"
    ]
    if not seen:
        raise BackendError(f"No query was answered: {replies[0].error}")
    return seen, len(pairs) - len(seen)


def _weights(reply: Reply, passages: int) -> Weights:
    """(layers, heads, passages) of a reply to a request with ``per_head``."""
    layers, heads = map(int, reply.text.split("x"))
    return np.array(reply.scores).reshape(layers, heads, passages)


def _gold(ranking: Ranking, prepared: Prepared) -> NDArray[np.bool_]:
    grades = prepared.qrels.get(ranking.query.id, {})
    return np.array([grades.get(doc.id, 0) >= prepared.relevant for doc in ranking.docs], dtype=bool)
