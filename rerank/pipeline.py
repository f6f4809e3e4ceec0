"""The driver: runs the plans of many rankings in lock-step, so that all their next windows are judged together.

The only place where strategies and judges meet. It knows no model, file or progress bar.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from rerank.judges.base import FAILURES, STATUSES, Judge, Verdict
from rerank.strategies.base import Strategy
from rerank.types import Order, Plan, Ranking, Window


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a drive.

    Attributes:
        rankings: One per ranking that went in, same order; score 1/r at rank r.
        judged: Every window, first-stage scores filled in, with its verdict, in the order in which they were asked.
    """

    rankings: tuple[Ranking, ...]
    judged: tuple[tuple[Window, Verdict], ...]

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


def drive(rankings: Iterable[Ranking], strategy: Strategy, judge: Judge) -> Outcome:
    """Rerank every ranking. A list whose query is blank asks nothing and keeps its order: there is no question.

    Args:
        rankings: First-stage lists, of any length.
        strategy: Which windows to ask about.
        judge: Who puts them in order. It gets the next windows of all rankings at once.
    """
    given = list(rankings)
    plans = [strategy(ranking) if ranking.query.text.strip() else _as_given(ranking) for ranking in given]
    scores = [dict(zip(ranking.doc_ids, ranking.scores, strict=True)) for ranking in given]
    finished: dict[int, Ranking] = {}
    asked = _advance(plans, dict.fromkeys(range(len(plans))), finished)
    judged: list[tuple[Window, Verdict]] = []
    while asked:
        windows = [_scored(window, scores[index]) for index, wanted in asked.items() for window in wanted]
        verdicts = judge.order(windows)
        judged.extend(zip(windows, verdicts, strict=True))
        orders = iter([verdict.order for verdict in verdicts])
        answers = {index: [next(orders) for _ in wanted] for index, wanted in asked.items()}
        asked = _advance(plans, answers, finished)
    done = tuple(Ranking.from_order(finished[i].query, finished[i].docs) for i in range(len(plans)))
    return Outcome(done, tuple(judged))


def _as_given(ranking: Ranking) -> Plan:
    """A plan that asks nothing."""
    yield from ()
    return ranking


def _scored(window: Window, scores: Mapping[str, float]) -> Window:
    """The window with its documents' first-stage scores; as it is if one of them is not known or it has some."""
    if window.scores or any(doc.id not in scores for doc in window.docs):
        return window
    return replace(window, scores=tuple(scores[doc.id] for doc in window.docs))


def _advance(
    plans: Sequence[Plan], answers: dict[int, list[Order]] | dict[int, None], finished: dict[int, Ranking]
) -> dict[int, list[Window]]:
    """Send each plan its orders (None starts it); return what each asks next, file those that ended."""
    asked: dict[int, list[Window]] = {}
    for index, orders in answers.items():
        try:
            asked[index] = plans[index].send(orders) if orders is not None else next(plans[index])
        except StopIteration as end:
            finished[index] = end.value
    return asked
