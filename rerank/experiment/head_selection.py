"""Selection of attention heads for attention rerankers, on a few judged queries, with QRHead or CoRe."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray

from rerank.errors import BackendError, DataError, UnknownNameError, UsageError
from rerank.evaluation import evaluate_runs
from rerank.experiment.candidates import order_run
from rerank.experiment.prepare import PreparedRun, prepare_run
from rerank.experiment.spec import Execution, RunSpec
from rerank.judges.attention import Attention
from rerank.judges.attention.heads import HeadList, model_identity
from rerank.store.call_log import CallLog
from rerank.store.logging_backend import log_calls
from rerank.tasks import Reply
from rerank.tasks.backends import model_base_of_backend
from rerank.types import Qrels, Ranking, Run, Window

Weights = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadSelection:
    """Options for head selection."""

    method: str = "qrhead"  # ``qrhead``, ``qrhead-ndcg`` or ``core``
    count: int | None = None  # number of heads to select; None for the method's default
    tau: float = 0.1  # temperature of ``core``; the paper uses 0.1 to 0.001, depending on the model

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise UnknownNameError("method of head selection", self.method, METHODS)
        if (self.count is not None and self.count < 1) or self.tau < 1e-6:  # scores are divided by tau
            raise UsageError(
                f"count is {self.count}, and tau is {self.tau}", expected="a count above 0 and a tau of at least 1e-6"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class _QueryAttention:
    """The attention of every head to the passages of one query."""

    ranking: Ranking
    weights: Weights  # attention weights of shape (layers, heads, passages)
    gold: NDArray[np.bool_]  # boolean array of shape (passages,): whether each passage is relevant


def score_by_mass(weights: Weights, gold: NDArray[np.bool_]) -> Weights:
    """Compute QRHead's score of each head for one query: its attention to the relevant passages.

    QRscore_h = 1/|q| sum over relevant passages d, query tokens i and tokens t of d of A_h[i, t] (Zhang et al., EMNLP
    2025, arXiv 2506.09944, equation 3). ``weights`` has shape (layers, heads, passages), averaged over query tokens and
    summed over passage tokens.
    """
    # Equation 3; the weights already contain the mean over query tokens (1/|q|) and the sum over passage tokens t.
    return cast(Weights, weights[:, :, gold].sum(axis=2))


def score_by_contrast(weights: Weights, gold: NDArray[np.bool_], *, tau: float) -> Weights:
    """Compute CoRe's score of each head for one query: the contrast between relevant and irrelevant passages.

    S_h = exp(m_p / tau) / (exp(m_p / tau) + sum over irrelevant n of exp(m_n / tau)), averaged over relevant passages p
    (Tran et al., arXiv 2510.02219).
    """
    scaled = weights / tau  # m / tau, shape (layers, heads, passages)
    scores = []
    for position in np.flatnonzero(gold):
        # Numerator and denominator are divided by exp(m_p / tau): 1 / (1 + sum of exp((m_n - m_p) / tau)). If the sum
        # overflows to infinity, the score is 0, whereas the original form would give nan.
        with np.errstate(over="ignore"):
            irrelevant = np.exp(scaled[:, :, ~gold] - scaled[:, :, position, None]).sum(axis=2)  # (layers, heads)
        scores.append(1 / (1 + irrelevant))
    return cast(Weights, np.mean(scores, axis=0))


def score_by_ndcg(attention: Sequence[_QueryAttention], qrels: Qrels) -> Weights:
    """Compute nDCG@10 of the ranking that each head alone produces, as the code of QRHead's authors does for BEIR."""
    layers, heads, _ = attention[0].weights.shape

    def rank(query: _QueryAttention, head: tuple[int, ...]) -> Ranking:
        return Ranking.from_scores(
            query.ranking.query, zip(query.ranking.docs, map(float, query.weights[head]), strict=True)
        )

    # One run per head, ordered by layer, then head, so that the means can be reshaped to (layers, heads).
    runs = [Run(rank(query, head) for query in attention) for head in np.ndindex(layers, heads)]
    judged = Qrels({query.ranking.query.id: qrels[query.ranking.query.id] for query in attention})
    means = [float(next(iter(scores.summary().values()))) for scores in evaluate_runs(judged, runs, ["nDCG@10"])]
    return np.array(means).reshape(layers, heads)


@dataclass(frozen=True, slots=True)
class _Method:
    count: int  # number of heads that the authors of the method select
    calibrated: bool  # whether the method uses calibrated attention weights


METHODS: Mapping[str, _Method] = {
    "qrhead": _Method(16, calibrated=False),
    "qrhead-ndcg": _Method(16, calibrated=True),
    "core": _Method(8, calibrated=False),
}


def select_by_attention(
    spec: RunSpec,
    execution: Execution,
    selection: HeadSelection,
    *,
    log: Path,
    on_reply: Callable[[Reply], None] = lambda reply: None,
) -> HeadList:
    """Select heads by their attention on the judged queries of a specification, whose method is ignored."""
    method = METHODS[selection.method]
    icr_spec = spec.model_copy(update={"method": f"icr,calibrate={str(method.calibrated).lower()}"})
    prepared = prepare_run(icr_spec, execution)
    attention, skipped = _collect_attention(prepared, log, on_reply)
    if selection.method == "qrhead-ndcg":
        scores = score_by_ndcg(attention, prepared.qrels)  # (layers, heads)
    elif selection.method == "core":
        each = [score_by_contrast(query.weights, query.gold, tau=selection.tau) for query in attention]
        scores = cast(Weights, np.mean(each, axis=0))
    else:
        each = [score_by_mass(query.weights, query.gold) for query in attention]
        scores = cast(Weights, np.mean(each, axis=0))
    best = np.argsort(-scores, axis=None, kind="stable")[: selection.count or method.count]
    heads = [(int(index) // scores.shape[1], int(index) % scores.shape[1]) for index in best]
    details = {
        "collection": prepared.collection.name,
        "first_stage": spec.first_stage,
        "depth": spec.depth,
        "order": spec.shuffle,
        "seed": spec.seed,
        "relevant": prepared.relevant,
        "prompt": prepared.setup.template.name,
        "queries": len(attention),
        "queries_skipped": skipped,
        **({"tau": selection.tau} if selection.method == "core" else {}),
        "scores": [float(scores[head]) for head in heads],
        "median_score": float(np.median(scores)),
    }
    return HeadList(
        heads=tuple(heads),
        model=model_identity(prepared.backend.identity),
        method=selection.method,
        details=details,
        base=model_base_of_backend(prepared.backend),
    )


def _collect_attention(
    prepared: PreparedRun, log: Path, on_reply: Callable[[Reply], None]
) -> tuple[list[_QueryAttention], int]:
    """Return the heads' attention for each query with relevant and irrelevant candidates, and the number of others."""
    lists = order_run(prepared.first_stage, prepared.spec).values()
    pairs: list[tuple[Ranking, NDArray[np.bool_]]] = []
    for ranking in lists:
        grades = prepared.qrels.get(ranking.query.id, {})
        is_relevant = [grades.get(doc.id, 0) >= prepared.relevant for doc in ranking.docs]
        pairs.append((ranking, np.array(is_relevant, dtype=bool)))
    useful = [(ranking, gold) for ranking, gold in pairs if gold.any() and not gold.all()]
    if not useful:
        raise DataError(
            f"None of the {len(pairs)} queries has both a relevant and an irrelevant document among its candidates",
            expected="judged queries with relevant and irrelevant candidates",
            remedy="Use more queries or a larger --depth",
        )
    with CallLog(log) as calls:
        backend = log_calls(prepared.backend, calls, on_reply=on_reply)
        judge = cast(Attention, prepared.judge.with_backend(backend))
        windows = [Window(ranking.query, ranking.docs) for ranking, _ in useful]
        replies = judge.backend.generate([judge.request(window, per_head=True) for window in windows])
    attention = []
    for (ranking, gold), reply in zip(useful, replies, strict=True):
        if reply.finish != "error":
            layers, heads = map(int, reply.text.split("x"))
            weights = np.array(reply.scores).reshape(layers, heads, len(ranking))
            attention.append(_QueryAttention(ranking=ranking, weights=weights, gold=gold))
    if not attention:
        raise BackendError(f"The model failed for all {len(replies)} queries: {replies[0].error}")
    return attention, len(pairs) - len(attention)
