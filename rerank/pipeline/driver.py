"""The driver: runs the plans of many rankings in lock-step, so that all their next windows are judged together.

The only place where strategies and judges meet. It knows no model, file or progress bar.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from rerank.judges.base import FAILURES, STATUSES, Judge, SupportsParts, TooLong, Verdict
from rerank.pipeline.passages import Cutting
from rerank.pipeline.splitting import Answer, Fitting, FittingPlan
from rerank.strategies.base import Strategy
from rerank.types import Document, Plan, Ranking, Window


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a drive.

    Attributes:
        rankings: One per ranking that went in, same order; score 1/r at rank r.
        judged: Every window, first-stage scores filled in, with its verdict, in the order in which they were asked.
        split: The windows that were too long for the context, and were ranked in parts and merged, each with how many
            of its documents fit, counted from its head.
    """

    rankings: tuple[Ranking, ...]
    judged: tuple[tuple[Window, Verdict], ...]
    split: tuple[tuple[Window, int], ...] = ()

    def windows(self) -> dict[str, int]:
        """How many windows ended in each status; all statuses are there."""
        counts = dict.fromkeys(map(str, STATUSES), 0)
        for _, verdict in self.judged:
            counts[verdict.status] += 1
        return counts

    def failure_rate(self) -> float:
        """Share of windows that say nothing about their documents; 0 where none was asked."""
        failed = sum(verdict.status in FAILURES for _, verdict in self.judged)
        return failed / len(self.judged) if self.judged else 0.0


def drive(
    rankings: Iterable[Ranking],
    strategy: Strategy,
    judge: Judge,
    *,
    top_k: int | None = None,
    passages: Cutting | None = None,
) -> Outcome:
    """Rerank every ranking. A list whose query is blank asks nothing and keeps its order: there is no question.

    Args:
        rankings: First-stage lists, of any length.
        strategy: Which windows to ask about.
        judge: Who puts them in order. It gets the next windows of all rankings at once. Windows of which it says that
            they are too long are ranked in parts and merged.
        top_k: Keep only that many of the new order; the rest follows in its given order. None for all.
        passages: How documents are cut for the judge; None shows them whole. The rankings that come out are of
            documents in any case, and the windows are of what was shown.
    """
    given = list(rankings)
    asking = [bool(one.query.text.strip()) for one in given]
    shown = [passages.expand(one) if passages and asks else one for one, asks in zip(given, asking, strict=True)]
    attempt = judge.attempt if isinstance(judge, SupportsParts) else judge.order
    fitting = Fitting()
    scores = [dict(zip(ranking.doc_ids, ranking.scores, strict=True)) for ranking in shown]
    plans = [fitting(strategy(one) if asks else _as_given(one)) for one, asks in zip(shown, asking, strict=True)]
    finished: dict[int, Ranking] = {}
    asked = _advance(plans, dict.fromkeys(range(len(plans))), finished)
    judged: list[tuple[Window, Verdict]] = []
    while asked:
        windows = [_scored(window, scores[index]) for index, wanted in asked.items() for window in wanted]
        verdicts = attempt(windows)
        pairs = zip(windows, verdicts, strict=True)
        judged.extend((window, verdict) for window, verdict in pairs if isinstance(verdict, Verdict))
        given_back = iter(verdicts)
        answers = {index: [_answer(next(given_back)) for _ in wanted] for index, wanted in asked.items()}
        asked = _advance(plans, answers, finished)
    if passages:
        finished |= {at: passages.collect(given[at], one) for at, one in finished.items() if asking[at]}
    done = tuple(_best_first(ranking, finished[at].docs[:top_k]) for at, ranking in enumerate(given))
    return Outcome(done, tuple(judged), tuple(fitting.split))


def _best_first(given: Ranking, best: Sequence[Document]) -> Ranking:
    """A ranking that begins with ``best``; the rest follows in its given order."""
    ids = {doc.id for doc in best}
    return Ranking.from_order(given.query, [*best, *(doc for doc in given.docs if doc.id not in ids)])


def _as_given(ranking: Ranking) -> Plan:
    """A plan that asks nothing."""
    yield from ()
    return ranking


def _answer(verdict: Verdict | TooLong) -> Answer:
    return verdict.room if isinstance(verdict, TooLong) else verdict.order


def _scored(window: Window, scores: Mapping[str, float]) -> Window:
    """The window with its documents' first-stage scores; as it is if one of them is not known or it has some."""
    if window.scores or any(doc.id not in scores for doc in window.docs):
        return window
    return replace(window, scores=tuple(scores[doc.id] for doc in window.docs))


def _advance(
    plans: Sequence[FittingPlan], answers: dict[int, list[Answer]] | dict[int, None], finished: dict[int, Ranking]
) -> dict[int, list[Window]]:
    """Send each plan its orders (None starts it); return what each asks next, file those that ended."""
    asked: dict[int, list[Window]] = {}
    for index, orders in answers.items():
        try:
            asked[index] = plans[index].send(orders) if orders is not None else next(plans[index])
        except StopIteration as end:
            finished[index] = end.value
    return asked
