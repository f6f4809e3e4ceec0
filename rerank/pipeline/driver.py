"""The driver: runs the plans of many rankings in lock-step, so that their next windows are judged together.

Strategies and judges meet only here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from rerank.judges.base import FAILURES, STATUSES, Judge, OversizedWindow, SupportsOversizedWindows, Verdict
from rerank.pipeline.passages import DocumentSplitter
from rerank.pipeline.window_splitting import SplittingPlan, WindowAnswer, WindowSplitter
from rerank.strategies.base import Strategy
from rerank.types import Document, Plan, Ranking, Window


@dataclass(frozen=True, slots=True)
class RerankOutcome:
    """The reranked lists and the windows that were judged for them.

    Attributes:
        rankings: One per input ranking, in the same order; the score at rank r is 1/r.
        judged: Every window, with first-stage scores, and its verdict, in the order of judging.
        split: The windows that were too long for the context, so that their parts were ranked and merged, each with
            the number of documents that fit, counted from its head.
    """

    rankings: tuple[Ranking, ...]
    judged: tuple[tuple[Window, Verdict], ...]
    split: tuple[tuple[Window, int], ...] = ()

    def windows(self) -> dict[str, int]:
        """Return the number of windows per status; every status is a key."""
        counts = dict.fromkeys(map(str, STATUSES), 0)
        for _, verdict in self.judged:
            counts[verdict.status] += 1
        return counts

    def failure_rate(self) -> float:
        """Return the fraction of windows that failed; 0 if there were none."""
        failures = sum(verdict.status in FAILURES for _, verdict in self.judged)
        return failures / len(self.judged) if self.judged else 0.0


def drive(
    rankings: Iterable[Ranking],
    strategy: Strategy,
    judge: Judge,
    *,
    top_k: int | None = None,
    passages: DocumentSplitter | None = None,
) -> RerankOutcome:
    """Rerank all rankings; a list with a blank query keeps its order, and nothing is judged for it.

    Args:
        rankings: First-stage lists of any length.
        strategy: Decides which windows are judged.
        judge: Orders the windows; it gets the next windows of all rankings together. Windows that it reports as
            oversized are ranked in parts, which are merged.
        top_k: Keep only the first ``top_k`` of the new order; the rest follows in input order. None for all.
        passages: How documents are divided for the judge; None shows them whole. The resulting rankings always
            contain documents, and the judged windows contain what was shown.
    """
    inputs = list(rankings)
    has_query = [bool(ranking.query.text.strip()) for ranking in inputs]
    shown = [
        passages.expand(ranking) if passages and judging else ranking
        for ranking, judging in zip(inputs, has_query, strict=True)
    ]
    judge_windows = judge.try_order if isinstance(judge, SupportsOversizedWindows) else judge.order
    splitter = WindowSplitter()
    scores = [dict(zip(ranking.doc_ids, ranking.scores, strict=True)) for ranking in shown]
    plans = [
        splitter(strategy(ranking) if judging else _keep_order(ranking))
        for ranking, judging in zip(shown, has_query, strict=True)
    ]
    finished: dict[int, Ranking] = {}
    pending = _advance(plans, dict.fromkeys(range(len(plans))), finished)
    judged: list[tuple[Window, Verdict]] = []
    # Each round judges the next windows of all plans that are not finished; plans may take different numbers of rounds.
    while pending:
        windows = [_with_scores(window, scores[index]) for index, batch in pending.items() for window in batch]
        verdicts = judge_windows(windows)
        pairs = zip(windows, verdicts, strict=True)
        judged.extend((window, verdict) for window, verdict in pairs if isinstance(verdict, Verdict))
        remaining = iter(verdicts)
        answers = {index: [_answer(next(remaining)) for _ in batch] for index, batch in pending.items()}
        pending = _advance(plans, answers, finished)
    if passages:
        finished |= {
            index: passages.collect(inputs[index], ranking) for index, ranking in finished.items() if has_query[index]
        }
    results = tuple(_put_first(ranking, finished[index].docs[:top_k]) for index, ranking in enumerate(inputs))
    return RerankOutcome(results, tuple(judged), tuple(splitter.split))


def _put_first(ranking: Ranking, best: Sequence[Document]) -> Ranking:
    """Return the ranking with ``best`` at its head; the other documents keep their order."""
    ids = {doc.id for doc in best}
    return Ranking.from_order(ranking.query, [*best, *(doc for doc in ranking.docs if doc.id not in ids)])


def _keep_order(ranking: Ranking) -> Plan:
    """Return a plan without windows."""
    yield from ()
    return ranking


def _answer(verdict: Verdict | OversizedWindow) -> WindowAnswer:
    return verdict.capacity if isinstance(verdict, OversizedWindow) else verdict.order


def _with_scores(window: Window, scores: Mapping[str, float]) -> Window:
    """Add the documents' first-stage scores, unless the window has scores or one of them is unknown."""
    if window.scores or any(doc.id not in scores for doc in window.docs):
        return window
    return replace(window, scores=tuple(scores[doc.id] for doc in window.docs))


def _advance(
    plans: Sequence[SplittingPlan],
    answers: dict[int, list[WindowAnswer]] | dict[int, None],
    finished: dict[int, Ranking],
) -> dict[int, list[Window]]:
    """Send each plan its orders (None starts it); return the next windows per plan, and store finished rankings."""
    pending: dict[int, list[Window]] = {}
    for index, orders in answers.items():
        try:
            pending[index] = plans[index].send(orders) if orders is not None else next(plans[index])
        except StopIteration as end:
            finished[index] = end.value
    return pending
