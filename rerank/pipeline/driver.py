"""The driver, a state machine that runs the strategy plans of many rankings without doing I/O.

The driver returns the requests of the next windows, accepts the replies to these requests, and returns rankings as they
finish. Strategies and judges do not depend on each other; only the driver connects them. `rerank.pipeline.stream` and
`rerank.pipeline.network` send the driver's requests to backends.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise
from typing import Any, cast

from rerank.judges.base import Judge, OversizedWindow, Verdict
from rerank.pipeline.passages import DocumentSplitter
from rerank.pipeline.results import LATE, RankedList, final_scores
from rerank.strategies.base import Strategy
from rerank.tasks import Reply, Request
from rerank.tasks.requests import Usage
from rerank.tasks.tracing import traced
from rerank.types import Document, Order, Plan, Ranking, Window

#: Answer to a window: its order, or the number of its first documents (two or more) that fit in the context.
WindowAnswer = Order | int
#: A plan whose windows may be oversized. The answer that it is sent for such a window is the number of documents that
#: fit.
SplittingPlan = Generator[list[Window], list[WindowAnswer], Ranking]
#: The plan for one window: it yields the window or parts of it, is sent the answers, and returns the window's order.
_WindowPlan = Generator[list[Window], list[WindowAnswer], Order]
_PlanWindow = Callable[[Window], _WindowPlan]


def split_oversized(plan: Plan, split: list[tuple[Window, int]]) -> SplittingPlan:
    """Return a plan that does the same as ``plan``, which does not notice that oversized windows are ranked in parts.

    Each oversized window is added to the list ``split``, with the number of documents that fit.
    """
    try:
        windows = next(plan)
        while True:
            answers = yield windows
            parts = {
                index: _rank_in_parts(split, windows[index], capacity)
                for index, capacity in enumerate(answers)
                if isinstance(capacity, int)
            }
            if parts:
                orders = yield from _run_together([*parts.values()])
                for index, order in zip(parts, orders, strict=True):
                    answers[index] = order
            windows = plan.send(cast(list[Order], answers))
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]


def _rank_window(split: list[tuple[Window, int]], window: Window) -> _WindowPlan:
    (answer,) = yield [window]
    return (yield from _rank_in_parts(split, window, answer)) if isinstance(answer, int) else answer


def _rank_in_parts(split: list[tuple[Window, int]], window: Window, capacity: int) -> _WindowPlan:
    split.append((window, capacity))
    return (yield from split_and_merge(window, capacity, partial(_rank_window, split)))


def split_and_merge(window: Window, capacity: int, plan_window: _PlanWindow) -> _WindowPlan:
    """Rank parts of at most ``capacity`` documents, then merge them by ranking their first documents (heads).

    The order of the heads is final only up to the point where the heads of one part are used up, because the next
    document of that part has not been compared yet. With a perfect judge, the result is the order of the whole window.

    The number of calls is ceil(n / capacity) for the parts, plus one per merge step; for example, two parts of 50
    documents with capacity 80 take 2 + 2 calls.
    """
    # ceil(n / capacity) parts of almost equal length.
    count = -(-len(window) // capacity)
    edges = [index * len(window) // count for index in range(count + 1)]
    parts = [list(range(start, end)) for start, end in pairwise(edges)]
    orders = yield from _run_together([plan_window(_part(window, part)) for part in parts])
    parts = [[part[position] for position in order] for part, order in zip(parts, orders, strict=True)]
    while len(parts) > 1:
        merged = yield from _merge(window, parts[:capacity], capacity, plan_window)
        parts = [*parts[capacity:], merged]
    return tuple(parts[0])


def _merge(
    window: Window, parts: list[list[int]], capacity: int, plan_window: _PlanWindow
) -> Generator[list[Window], list[WindowAnswer], list[int]]:
    merged: list[int] = []
    while len(parts) > 1 and len(merged) < window.depth:
        # Each part contributes the same number of heads, so that together they fit in one window.
        share = capacity // len(parts)
        heads = [part[:share] for part in parts]
        shown = [position for head in heads for position in head]
        order = yield from plan_window(_part(window, shown))
        ranked = [shown[index] for index in order]
        final = _count_final(ranked, heads, parts)
        merged += ranked[:final]
        removed = set(ranked[:final])
        # Documents that were ranked but are not final stay at the start of their part, in their new order.
        rank = {position: index for index, position in enumerate(ranked)}
        for part in parts:
            part[:share] = sorted((item for item in part[:share] if item not in removed), key=rank.__getitem__)
        parts = [part for part in parts if part]
    return merged + [position for part in parts for position in part]


def _count_final(ranked: Sequence[int], heads: Sequence[Sequence[int]], parts: Sequence[Sequence[int]]) -> int:
    """Return how many ranked heads (first documents of the parts) are final: up to where a part has none left."""
    # After the last head of a part, the next document of this part, which was not in the window, might come first. A
    # part all of whose documents were in the window sets no limit.
    rank = {position: index for index, position in enumerate(ranked)}
    ends = [
        max(rank[position] for position in head) + 1
        for head, part in zip(heads, parts, strict=True)
        if len(part) > len(head)
    ]
    return min(ends, default=len(ranked))


def _part(window: Window, positions: Sequence[int]) -> Window:
    docs: tuple[Document, ...] = tuple(window.docs[position] for position in positions)
    return Window(window.query, docs, best=window.best)


def _run_together(plans: Sequence[_WindowPlan]) -> Generator[list[Window], list[WindowAnswer], list[Order]]:
    """Run the plans of several windows in lockstep, and return their orders.

    In each step, the next windows of all plans are yielded together.
    """
    results: dict[int, Order] = {}
    pending = {index: next(plan) for index, plan in enumerate(plans)}
    while pending:
        received = iter((yield [window for windows in pending.values() for window in windows]))
        answers = {index: [next(received) for _ in windows] for index, windows in pending.items()}
        pending = {}
        for index, answer in answers.items():
            try:
                pending[index] = plans[index].send(answer)
            except StopIteration as end:
                results[index] = end.value
    return [results[index] for index in range(len(plans))]


#: Substitute for each missing reply of a window if only some of its requests were answered by the deadline.
_LATE = Reply(finish="error", error=LATE)


@dataclass(eq=False, slots=True)
class _OpenWindow:
    """A window that a plan has yielded and that has not been judged yet."""

    owner: _OpenRanking
    position: int  # position of the window among the windows that the plan yielded together
    window: Window  # the window, with first-stage scores
    #: For each request, its reply, or None if the reply has not arrived.
    replies: list[Reply | None] = field(default_factory=list)
    verdict: Verdict | None = None  # the verdict; None until all replies have arrived


@dataclass(frozen=True, slots=True, eq=False)
class Ticket:
    """A request that `Driver.next_requests` has returned; it is passed to `Driver.put` together with its reply."""

    request: Request
    window: _OpenWindow  # if the ranking of the window is closed, the reply is not needed
    position: int  # position of the request among those of the window

    @property
    def ranking(self) -> Ranking:
        return self.window.owner.given


@dataclass(eq=False, slots=True, kw_only=True)
class _OpenRanking:
    """A ranking whose plan has not finished."""

    key: int  # number of the ranking, as `Driver.add` returned it
    given: Ranking
    shown: Ranking  # the list that is judged: the documents of ``given``, or their passages
    top_k: int | None  # number of documents to rerank; None for all
    plan: SplittingPlan
    split: list[tuple[Window, int]]  # the windows that were ranked in parts, each with the number of documents that fit
    windows: list[_OpenWindow] = field(default_factory=list)
    #: For each of these windows, its order, or its capacity if it is oversized; None until this is known.
    answers: list[WindowAnswer | None] = field(default_factory=list)
    unanswered: int = 0  # number of these windows without an answer
    #: The judged windows and their verdicts, in the order of judging.
    judged: list[tuple[Window, Verdict]] = field(default_factory=list)
    usage: Usage = field(default_factory=Usage)  # cost of the replies
    #: Mapping from document id to the largest number of tokens truncated from the document.
    dropped: dict[str, int] = field(default_factory=dict)
    expired: bool = False
    closed: bool = False


class Driver:
    """A state machine for any number of rankings; it is not thread-safe.

    A window is due when the plan of its ranking has yielded it; only then is its prompt rendered. Without a sort key,
    requests are returned in the order in which their windows became due.

    With a ``sort_key``, the requests of ``lookahead`` batches are rendered and sorted before they are returned. With
    ``scores_single``, the only document of a list, for which strategies yield no windows, is judged for its score, if
    scores are absolute.
    """

    def __init__(
        self,
        strategy: Strategy,
        judge: Judge,
        *,
        passages: DocumentSplitter | None = None,
        lookahead: int = 1,
        sort_key: Callable[[Request], Any] | None = None,
        scores_single: bool = False,
    ) -> None:
        self._scores_single = scores_single and judge.score_kind is not None and judge.score_kind.scope == "absolute"
        self._strategy, self._judge, self._passages = strategy, judge, passages
        self._lookahead, self._sort_key = lookahead, sort_key
        self._open: dict[int, _OpenRanking] = {}
        self._due: deque[_OpenWindow] = deque()
        self._ready: deque[Ticket] = deque()
        self._finished: list[tuple[int, RankedList | Exception]] = []
        self._keys = itertools.count()

    def __len__(self) -> int:
        return len(self._open)

    def add(self, ranking: Ranking, *, strategy: Strategy | None = None, top_k: int | None = None) -> int:
        """Start a ranking and return its key; a list with a blank query keeps its order without being judged.

        The first ``top_k`` documents are taken from the new order (all if None); the others follow in input order.
        """
        has_query = bool(ranking.query.text.strip())
        shown = self._passages.expand(ranking) if self._passages and has_query else ranking
        make_plan: Callable[[Ranking], Plan] = strategy or self._strategy
        if not has_query:
            make_plan = _without_windows
        elif self._scores_single and len(shown) == 1:
            make_plan = _single_window
        split: list[tuple[Window, int]] = []
        plan, key = split_oversized(make_plan(shown), split), next(self._keys)
        state = _OpenRanking(key=key, given=ranking, shown=shown, top_k=top_k, plan=plan, split=split)
        self._open[key] = state
        self._advance(state, None)
        return key

    def next_requests(self, n: int) -> list[Ticket]:
        """Return up to ``n`` requests that are due; fewer if further requests depend on replies that are missing."""
        self._ready = deque(ticket for ticket in self._ready if not ticket.window.owner.closed)
        if len(self._ready) < n:
            # Render windows until ``n * lookahead`` requests are ready, or ``n`` are of at least ``n`` rankings:
            # sorting brings windows of one ranking together, and more rankings would only hold more prompts in memory.
            owners: set[int] = set()
            while self._due and len(self._ready) < n * self._lookahead:
                if len(owners) >= n and len(self._ready) >= n:
                    break
                open_window = self._due.popleft()
                if open_window.owner.closed:
                    continue
                owners.add(open_window.owner.key)
                try:
                    about = {"openinference.span.kind": "PROMPT", "rerank.documents": len(open_window.window)}
                    with traced("render", about, ranking=open_window.owner.given):
                        requests = self._judge.requests(open_window.window)
                    if isinstance(requests, OversizedWindow):
                        self._answer(open_window, requests.capacity)
                        continue
                    open_window.replies = [None] * len(requests)
                    dropped = open_window.owner.dropped
                    for position, request in enumerate(requests):
                        for doc, tokens in zip(request.window.docs, request.dropped, strict=False):
                            if tokens:
                                dropped[doc.id] = max(tokens, dropped.get(doc.id, 0))
                        self._ready.append(Ticket(request, open_window, position))
                    if not requests:
                        self._judge_window(open_window, [])
                except Exception as error:  # noqa: BLE001 - an error in a plug-in affects only its own ranking
                    self._fail(open_window.owner, error)
            if (sort_key := self._sort_key) is not None:
                self._ready = deque(sorted(self._ready, key=lambda ticket: sort_key(ticket.request)))
        return [self._ready.popleft() for _ in range(min(n, len(self._ready)))]

    def put(self, ticket: Ticket, reply: Reply) -> None:
        """Accept the reply to a request; replies to a ranking that has ended are ignored."""
        open_window = ticket.window
        state = open_window.owner
        if state.closed:
            return
        open_window.replies[ticket.position] = reply
        state.usage.add_answer(reply)
        replies = [received for received in open_window.replies if received is not None]
        if len(replies) == len(open_window.replies):
            self._judge_window(open_window, replies)

    def expire(self, key: int) -> None:
        """End a ranking at its deadline; windows without a verdict keep their given order.

        The plan is run to its end, so the strategy merges the judged windows by its own rules. If no window was judged,
        the list keeps its order, even if the strategy shuffles its windows.
        """
        state = self._open.get(key)
        if state is None:
            return
        state.expired = state.closed = True
        answers: list[WindowAnswer] = []
        for open_window, answer in zip(state.windows, state.answers, strict=True):
            if answer is None and any(open_window.replies):
                replies = [reply or _LATE for reply in open_window.replies]
                open_window.verdict = self._judge.verdict(open_window.window, replies)
                answer = open_window.verdict.order
            answers.append(tuple(range(len(open_window.window))) if answer is None else answer)
        state.judged += [(window.window, window.verdict) for window in state.windows if window.verdict is not None]
        if not state.judged:
            self._finish(state, state.shown)
            return
        try:
            while True:
                answers = [tuple(range(len(window))) for window in state.plan.send(answers)]
        except StopIteration as end:
            self._finish(state, end.value)

    def discard(self, key: int) -> None:
        """Remove a ranking without a result; nothing happens if there is no open ranking with this key."""
        if state := self._open.pop(key, None):
            state.closed = True
            state.windows = []  # windows refer to their ranking: without the circle, both are freed at once
            state.plan.close()
        if not self._open:  # what is left belongs to rankings that have ended
            self._due.clear()
            self._ready.clear()

    def finished(self) -> list[tuple[int, RankedList | Exception]]:
        """Return a pair of key and result for each ranking that has finished since the last call.

        The result of a ranking that failed is the error.
        """
        finished, self._finished = self._finished, []
        return finished

    def _judge_window(self, open_window: _OpenWindow, replies: list[Reply]) -> None:
        try:
            open_window.verdict = self._judge.verdict(open_window.window, replies)
        except Exception as error:  # noqa: BLE001 - as above
            self._fail(open_window.owner, error)
            return
        self._answer(open_window, open_window.verdict.order)

    def _answer(self, open_window: _OpenWindow, answer: WindowAnswer) -> None:
        state = open_window.owner
        state.answers[open_window.position] = answer
        state.unanswered -= 1
        if not state.unanswered:  # counted, since there may be thousands of windows
            self._advance(state, [received for received in state.answers if received is not None])

    def _advance(self, state: _OpenRanking, answers: list[WindowAnswer] | None) -> None:
        """Send answers to the plan, or start the plan if they are None; add its next windows, or finish the ranking."""
        # in the order of the windows, not of the replies
        state.judged += [(window.window, window.verdict) for window in state.windows if window.verdict is not None]
        try:
            windows = next(state.plan) if answers is None else state.plan.send(answers)
            while not windows:  # a plan may yield an empty list of windows, for which there are no answers
                windows = state.plan.send([])
            scores = dict(zip(state.shown.doc_ids, state.shown.scores, strict=False))
            state.windows = []
            for position, window in enumerate(windows):
                # a window shows first-stage scores unless the plan has set scores or a document has none
                if scores and window.docs and not window.scores and all(doc.id in scores for doc in window.docs):
                    window = replace(window, scores=tuple(scores[doc.id] for doc in window.docs))
                state.windows.append(_OpenWindow(state, position, window))
        except StopIteration as end:
            self._finish(state, end.value)
            return
        except Exception as error:  # noqa: BLE001 - as above
            self._fail(state, error)
            return
        state.answers, state.unanswered = [None] * len(windows), len(windows)
        self._due.extend(state.windows)

    def _finish(self, state: _OpenRanking, ranking: Ranking) -> None:
        self.discard(state.key)
        kind = self._judge.score_kind
        scores = {} if state.expired else final_scores(state.shown, state.judged, kind)
        if self._passages and state.given.query.text.strip():
            scores = self._passages.collect_scores(ranking, scores)
            ranking = self._passages.collect(state.given, ranking)
        best = ranking.docs[: state.top_k]
        reranked = {doc.id for doc in best}
        rest = (doc for doc in state.given.docs if doc.id not in reranked)  # in input order
        result = Ranking.from_order(state.given.query, [*best, *rest])
        ranked = RankedList(
            ranking=result,
            scores=tuple(scores.get(doc_id) if doc_id in reranked else None for doc_id in result.doc_ids),
            score_kind=kind,
            judged=tuple(state.judged),
            split=tuple(state.split),
            usage=state.usage,
            dropped=state.dropped,
            expired=state.expired,
        )
        self._finished.append((state.key, ranked))

    def _fail(self, state: _OpenRanking, error: Exception) -> None:
        self.discard(state.key)
        self._finished.append((state.key, error))


def _without_windows(ranking: Ranking) -> Plan:
    """Return a plan that judges no windows and keeps the order of the list."""
    yield from ()
    return ranking


def _single_window(ranking: Ranking) -> Plan:
    """Return a plan that judges the whole list as one window, for the score of its only document."""
    yield [Window(ranking.query, ranking.docs)]
    return ranking
