"""The driver: a state machine that runs the strategy plans of many rankings and does no I/O.

It hands out the requests of the next windows, takes their replies, and returns rankings as they finish. Strategies and
judges do not know each other; only the driver connects them. `rerank.pipeline.local` and `rerank.pipeline.network` send
its requests to backends.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from rerank.judges.base import Judge, OversizedWindow, Verdict
from rerank.pipeline.passages import DocumentSplitter
from rerank.pipeline.results import LATE, RankedList, final_scores_of_driver, put_documents_first_in_ranking
from rerank.pipeline.window_splitting import SplittingPlan, WindowAnswer, WindowSplitter
from rerank.strategies.base import Strategy
from rerank.tasks import Reply, Request
from rerank.tasks.usage import Usage
from rerank.types import Plan, Ranking, Window

#: Substitute for each missing reply of a window if only some of its requests were answered by the deadline.
_LATE = Reply(finish="error", error=LATE)


@dataclass(frozen=True, slots=True, kw_only=True)
class ListOptions:
    """Options for ranking one list.

    Attributes:
        strategy: Replaces the driver's strategy for this list.
        top_k: Keep only the first ``top_k`` documents of the new order; the others follow in input order. None for all.
        deadline: `time.monotonic` value at which the ranking ends with the windows judged so far; None for no deadline.
            The code that runs the driver checks it and calls `Driver.expire`.
    """

    strategy: Strategy | None = None
    top_k: int | None = None
    deadline: float | None = None


@dataclass(eq=False, slots=True)
class _OpenWindow:
    """A window that a plan has yielded and that has not been judged yet.

    Attributes:
        owner: The ranking that it belongs to.
        position: Its position among the windows that the plan yielded together.
        window: The window, with first-stage scores.
        replies: One item per request: its reply, or None if it has not arrived.
        verdict: The verdict, once all replies have arrived.
    """

    owner: _OpenRanking
    position: int
    window: Window
    replies: list[Reply | None] = field(default_factory=list)
    verdict: Verdict | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Ticket:
    """A request that was handed out. `Driver.put` takes it together with its reply.

    Attributes:
        request: The request.
        key: Key of the ranking that it belongs to.
    """

    request: Request
    key: int
    position: int
    _window: _OpenWindow

    @property
    def is_closed(self) -> bool:
        """Whether its ranking has ended, so that nobody waits for the reply."""
        return self._window.owner.closed


@dataclass(eq=False, slots=True, kw_only=True)
class _OpenRanking:
    """A ranking whose plan has not finished.

    Attributes:
        key: Number of the ranking, as `Driver.add` returned it.
        given: The list as it was added.
        shown: The list that is judged: the documents of ``given``, or their passages.
        top_k: Number of documents to rerank; None for all.
        plan: The plan of the strategy.
        splitter: Splits oversized windows, and records which windows were ranked in parts.
        answers: One item per window that the plan has yielded last: its answer, or None if it is missing.
    """

    key: int
    given: Ranking
    shown: Ranking
    top_k: int | None
    plan: SplittingPlan
    splitter: WindowSplitter
    windows: list[_OpenWindow] = field(default_factory=list)
    answers: list[WindowAnswer | None] = field(default_factory=list)
    judged: list[tuple[Window, Verdict]] = field(default_factory=list)
    usage: Usage = field(default_factory=Usage)
    dropped: dict[str, int] = field(default_factory=dict)
    expired: bool = False
    closed: bool = False


class Driver:
    """A state machine for any number of rankings; it is not thread-safe.

    Requests are handed out in the order in which their windows became due. Prompts are not rendered before that.

    Args:
        strategy: Decides which windows are judged.
        judge: Makes the requests of a window and reads the replies.
        passages: Divides documents into passages for the judge; None shows whole documents.
        lookahead: Number of batches to render ahead, so that their requests can be sorted before they are handed out.
        sort_key: Sort key for rendered requests; None hands them out in the order of their windows.
        scores_single: Whether a document that is alone in its list is judged, if its score does not depend on others.
            Strategies yield no windows for it, since it has no order.
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
        """Start without rankings."""
        self._scores_single = scores_single and judge.score_kind is not None and judge.score_kind.scope == "absolute"
        self._strategy, self._judge, self._passages = strategy, judge, passages
        self._lookahead, self._sort_key = lookahead, sort_key
        self._open: dict[int, _OpenRanking] = {}
        self._due: deque[_OpenWindow] = deque()
        self._ready: deque[Ticket] = deque()
        self._finished: list[tuple[int, RankedList | Exception]] = []
        self._keys = itertools.count()

    def __len__(self) -> int:
        """Return the number of rankings that are not finished."""
        return len(self._open)

    def add(self, ranking: Ranking, options: ListOptions | None = None) -> int:
        """Start a ranking and return its key; a list with a blank query keeps its order without being judged.

        Args:
            ranking: The first-stage list, with or without scores.
            options: Options for this list, such as another strategy than the driver's.
        """
        options = options or ListOptions()
        has_query = bool(ranking.query.text.strip())
        shown = self._passages.expand(ranking) if self._passages and has_query else ranking
        strategy: Callable[[Ranking], Plan] = options.strategy or self._strategy
        if not has_query:
            strategy = _driver_plan_without_windows
        elif self._scores_single and len(shown) == 1:
            strategy = _driver_plan_for_single_document
        splitter = WindowSplitter()
        state = _OpenRanking(
            key=next(self._keys),
            given=ranking,
            shown=shown,
            top_k=options.top_k,
            plan=splitter(strategy(shown)),
            splitter=splitter,
        )
        self._open[state.key] = state
        self._advance(state, None)
        return state.key

    def next_requests(self, n: int) -> list[Ticket]:
        """Return up to ``n`` requests that are due; fewer if the next ones depend on replies that are still missing."""
        self._ready = deque(ticket for ticket in self._ready if not ticket.is_closed)
        if len(self._ready) < n:
            self._render(n)
        return [self._ready.popleft() for _ in range(min(n, len(self._ready)))]

    def put(self, ticket: Ticket, reply: Reply) -> None:
        """Take the reply to a request; late replies to an ended ranking are ignored."""
        open_window = ticket._window
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

        The plan runs to its end, so the strategy merges the judged windows by its own rules. If nothing was judged, the
        list keeps its order, even if the strategy shuffles its windows.
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
        self._record_verdicts(state)
        if not state.judged:
            self._finish(state, state.shown)
            return
        try:
            while True:
                answers = [tuple(range(len(window))) for window in state.plan.send(answers)]
        except StopIteration as end:
            self._finish(state, end.value)

    def discard(self, key: int) -> None:
        """Forget a ranking."""
        if state := self._open.pop(key, None):
            state.closed = True
            state.plan.close()

    def finished(self) -> list[tuple[int, RankedList | Exception]]:
        """Return (key, result) of the rankings that have finished since the last call; a failed one has its error."""
        finished, self._finished = self._finished, []
        return finished

    def _render(self, n: int) -> None:
        """Render due windows of at most ``n`` rankings until ``n * lookahead`` requests are ready."""
        owners: set[int] = set()
        while self._due and len(self._ready) < n * self._lookahead:
            if len(owners) >= n and len(self._ready) >= n:
                break
            open_window = self._due.popleft()
            if open_window.owner.closed:
                continue
            owners.add(open_window.owner.key)
            try:
                self._render_window(open_window)
            except Exception as error:  # noqa: BLE001 - an error in a plug-in affects only its own ranking
                self._fail(open_window.owner, error)
        if (sort_key := self._sort_key) is not None:
            self._ready = deque(sorted(self._ready, key=lambda ticket: sort_key(ticket.request)))

    def _render_window(self, open_window: _OpenWindow) -> None:
        requests = self._judge.requests(open_window.window)
        if isinstance(requests, OversizedWindow):
            self._answer(open_window, requests.capacity)
            return
        open_window.replies = [None] * len(requests)
        state = open_window.owner
        for position, request in enumerate(requests):
            for doc, tokens in zip(request.window.docs, request.dropped, strict=False):
                if tokens:
                    state.dropped[doc.id] = max(tokens, state.dropped.get(doc.id, 0))
            self._ready.append(Ticket(request, state.key, position, open_window))
        if not requests:
            self._judge_window(open_window, [])

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
        answers = [received for received in state.answers if received is not None]
        if len(answers) == len(state.answers):
            self._record_verdicts(state)
            self._advance(state, answers)

    def _record_verdicts(self, state: _OpenRanking) -> None:
        """Record the verdicts of the current windows in the order of the windows, not in that of their replies."""
        state.judged += [(window.window, window.verdict) for window in state.windows if window.verdict is not None]
        state.windows = []

    def _advance(self, state: _OpenRanking, answers: list[WindowAnswer] | None) -> None:
        """Send answers to a plan (None starts it). Then its next windows become due, or the ranking finishes."""
        try:
            windows = next(state.plan) if answers is None else state.plan.send(answers)
            while not windows:  # a plan may yield an empty list of windows, which nothing needs to answer
                windows = state.plan.send([])
        except StopIteration as end:
            self._finish(state, end.value)
            return
        except Exception as error:  # noqa: BLE001 - as above
            self._fail(state, error)
            return
        scores = dict(zip(state.shown.doc_ids, state.shown.scores, strict=False))
        state.windows = [
            _OpenWindow(state, position, _with_first_stage_scores(window, scores))
            for position, window in enumerate(windows)
        ]
        state.answers = [None] * len(windows)
        self._due.extend(state.windows)

    def _finish(self, state: _OpenRanking, ranking: Ranking) -> None:
        self.discard(state.key)
        kind = self._judge.score_kind
        scores = {} if state.expired else final_scores_of_driver(state.shown, state.judged, kind)
        if self._passages and state.given.query.text.strip():
            scores = self._passages.collect_scores(ranking, scores)
            ranking = self._passages.collect(state.given, ranking)
        result = put_documents_first_in_ranking(state.given, ranking.docs[: state.top_k])
        reranked = {doc.id for doc in ranking.docs[: state.top_k]}
        ranked = RankedList(
            ranking=result,
            scores=tuple(scores.get(doc_id) if doc_id in reranked else None for doc_id in result.doc_ids),
            score_kind=kind,
            judged=tuple(state.judged),
            split=tuple(state.splitter.split),
            usage=state.usage,
            dropped=state.dropped,
            expired=state.expired,
        )
        self._finished.append((state.key, ranked))

    def _fail(self, state: _OpenRanking, error: Exception) -> None:
        self.discard(state.key)
        self._finished.append((state.key, error))


def _driver_plan_without_windows(ranking: Ranking) -> Plan:
    """Return a plan that judges no windows and keeps the order."""
    yield from ()
    return ranking


def _driver_plan_for_single_document(ranking: Ranking) -> Plan:
    """Return a plan that judges the whole list as one window, for the score of its only document."""
    yield [Window(ranking.query, ranking.docs)]
    return ranking


def _with_first_stage_scores(window: Window, scores: Mapping[str, float]) -> Window:
    """Add the documents' first-stage scores to a window, unless it has scores or a document's score is unknown."""
    if window.scores or not window.docs or any(doc.id not in scores for doc in window.docs):
        return window
    return replace(window, scores=tuple(scores[doc.id] for doc in window.docs))
