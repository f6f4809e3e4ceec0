"""The driver: requests and replies, results, scores, oversized windows, deadlines and failures."""

from __future__ import annotations

import gc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pytest

from rerank.errors import ContextOverflowError, DataError
from rerank.judges.base import OversizedWindow, ScoreKind, Status, Verdict
from rerank.judges.generate import Generate
from rerank.pipeline.driver import Driver
from rerank.pipeline.passages import PassageAggregation
from rerank.pipeline.results import RankedList, count_statuses
from rerank.pipeline.stream import rank_together
from rerank.prompts.base import Message, TokenCounter
from rerank.prompts.template import PromptTemplate
from rerank.prompts.word_tokens import WordTokens
from rerank.strategies import open_strategy, strategies
from rerank.strategies.sliding import Full, Sliding
from rerank.tasks import Reply, Request, Sampling
from rerank.types import Document, Plan, Query, Ranking, Window
from tests.judging import SilentJudge, drive_silently
from tests.raising import raises


class Reverse(SilentJudge):
    """Reverses every window; counts them."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def decide(self, window: Window) -> Verdict:
        self.sizes.append(len(window))
        return Verdict(order=tuple(reversed(range(len(window)))), status="ok")


@dataclass
class Asks:
    """A judge with one request per document, whose score is the reply; refuses documents named "poison".

    Attributes:
        scope: Scope of its scores.
        fits: Number of documents that fit a window.
    """

    scope: str = "absolute"
    fits: int = 1000
    rendered: list[Window] = field(default_factory=list)

    @property
    def score_kind(self) -> ScoreKind:
        return ScoreKind("number", "within" if self.scope == "within" else "absolute")

    def requests(self, window: Window) -> list[Request] | OversizedWindow:
        self.rendered.append(window)
        if any(doc.id == "poison" for doc in window.docs):
            raise ContextOverflowError("A window does not fit")
        if len(window) > self.fits:
            return OversizedWindow(self.fits)
        return [
            Request(
                prompt=(Message("user", doc.id),),
                sampling=Sampling(max_tokens=1),
                window=Window(window.query, (doc,)),
                dropped=(len(doc.text),),
            )
            for doc in window.docs
        ]

    def verdict(self, window: Window, replies: Sequence[Reply]) -> Verdict:
        if any(reply.finish == "error" for reply in replies):
            return Verdict(order=tuple(range(len(window))), status="error", detail=replies[0].error)
        scores = tuple(reply.scores[0] for reply in replies)
        order = sorted(range(len(window)), key=lambda position: -scores[position])
        return Verdict(order=tuple(order), status="ok", scores=scores)


def number(request: Request) -> Reply:
    """Score a document by the number at the end of its id."""
    return Reply(scores=(float(request.window.docs[0].id.rpartition("-")[2]),), tokens_in=2, tokens_out=1)


def answer_all(driver: Driver, n: int = 1000) -> int:
    """Answer all requests, ``n`` at a time; return their number."""
    count = 0
    while tickets := driver.next_requests(n):
        count += len(tickets)
        for ticket in tickets:
            driver.put(ticket, number(ticket.request))
    return count


def finished(driver: Driver) -> list[RankedList]:
    results = [result for _, result in sorted(driver.finished(), key=lambda item: item[0])]
    assert all(isinstance(result, RankedList) for result in results)
    return results  # type: ignore[return-value]


def lists(*sizes: int) -> list[Ranking]:
    return [
        Ranking.from_order(Query(id=f"q{index}", text="words"), [Document(id=f"{index}-{n}") for n in range(size)])
        for index, size in enumerate(sizes)
    ]


def test_lists_of_any_length_end_when_they_end() -> None:
    judge = Reverse()
    outcome = drive_silently(lists(0, 1, 5, 45), Sliding(), judge)
    assert judge.sizes == [5, 20, 20, 20, 15]
    assert [len(ranking) for ranking in outcome.rankings] == [0, 1, 5, 45]
    assert outcome.rankings[2].doc_ids == ("2-4", "2-3", "2-2", "2-1", "2-0")


def test_scores_of_the_result_are_reciprocal_ranks() -> None:
    (ranking,) = drive_silently(lists(3), Full(), Reverse()).rankings
    assert ranking.scores == (1.0, 1 / 2, 1 / 3)


def test_a_blank_query_asks_nothing_and_keeps_its_order() -> None:
    judge = Reverse()
    blank = Ranking.from_order(Query(id="q", text=" \n"), [Document(id="a"), Document(id="b")])
    outcome = drive_silently([blank], Full(), judge)
    assert outcome.rankings[0].doc_ids == ("a", "b")
    assert judge.sizes == []


def test_no_lists() -> None:
    outcome = drive_silently([], Full(), Reverse())
    assert outcome.rankings == ()
    assert outcome.failure_rate() == 0.0


@dataclass(frozen=True)
class Halves:
    """Orders the two halves of a list on their own, in one step."""

    def __call__(self, ranking: Ranking) -> Plan:
        half = len(ranking) // 2
        parts = [(0, ranking.docs[:half]), (half, ranking.docs[half:])]
        orders = yield [Window(ranking.query, docs) for _, docs in parts]
        for (start, _), order in zip(parts, orders, strict=True):
            ranking = ranking.reorder(start, order)
        return ranking

    def calls(self, n: int) -> int:
        return 2


def test_a_plan_may_ask_several_windows_at_once() -> None:
    outcome = drive_silently(lists(4, 6), Halves(), Reverse())
    assert outcome.rankings[0].doc_ids == ("0-1", "0-0", "0-3", "0-2")
    assert outcome.rankings[1].doc_ids == ("1-2", "1-1", "1-0", "1-5", "1-4", "1-3")


def test_counts_windows_by_status_and_failures() -> None:
    statuses: tuple[Status, ...] = ("ok", "repaired", "partial", "empty", "refused", "error")

    class Mixed(SilentJudge):
        def decide(self, window: Window) -> Verdict:
            return Verdict(order=tuple(range(2)), status=statuses[int(window.query.id[1:])])

    outcome = drive_silently(lists(2, 2, 2, 2, 2, 2), Full(), Mixed())
    assert count_statuses(outcome.judged) == dict.fromkeys(statuses, 1)
    assert outcome.failure_rate() == 0.5


def test_requests_are_rendered_when_they_are_due() -> None:
    judge = Asks()
    driver = Driver(Full(), judge)
    for ranking in lists(3, 3, 3):
        driver.add(ranking)
    assert judge.rendered == []
    assert [ticket.window.owner.key for ticket in driver.next_requests(4)] == [0, 0, 0, 1]
    assert len(judge.rendered) == 2


def test_replies_in_any_order_give_the_same_result() -> None:
    forward, backward = Driver(Sliding(size=4, stride=2), Asks()), Driver(Sliding(size=4, stride=2), Asks())
    for driver, step in ((forward, 1), (backward, -1)):
        for ranking in lists(7, 4):
            driver.add(ranking)
        while tickets := driver.next_requests(5):
            for ticket in tickets[::step]:
                driver.put(ticket, number(ticket.request))
    assert finished(forward) == finished(backward)
    assert len(forward) == len(backward) == 0


def test_waiting_for_replies_hands_out_nothing() -> None:
    driver = Driver(Sliding(size=2, stride=1), Asks())
    driver.add(lists(3)[0])
    tickets = driver.next_requests(100)
    assert len(tickets) == 2  # the next window depends on their replies
    assert driver.next_requests(100) == []
    driver.put(tickets[0], number(tickets[0].request))
    assert driver.next_requests(100) == []
    driver.put(tickets[1], number(tickets[1].request))
    assert len(driver.next_requests(100)) == 2


def test_sorted_requests_come_from_few_lists() -> None:
    """Looking ahead must not render all lists before the first batch."""
    judge = Asks()
    driver = Driver(Full(), judge, lookahead=16, sort_key=lambda request: request.prompt[0].content)
    for ranking in lists(*[3] * 20):
        driver.add(ranking)
    contents = [ticket.request.prompt[0].content for ticket in driver.next_requests(4)]
    assert contents == sorted(contents)
    assert len(judge.rendered) == 4


def test_usage_and_cuts_are_those_of_the_list() -> None:
    driver = Driver(Sliding(size=2, stride=1), Asks())
    docs = [Document(id="d-1", text="abc"), Document(id="d-2"), Document(id="d-3", text="a")]
    driver.add(Ranking.from_order(Query(id="q", text="words"), docs))
    driver.add(lists(2)[0])
    answer_all(driver)
    first, second = finished(driver)
    assert (first.usage.calls, first.usage.tokens_in, first.usage.tokens_out) == (4, 8, 4)
    assert second.usage.calls == 2
    assert dict(first.dropped) == {"d-1": 3, "d-3": 1}


def test_absolute_scores_are_the_latest_ones() -> None:
    driver = Driver(Sliding(size=2, stride=1), Asks())
    driver.add(lists(3)[0])
    answer_all(driver)
    (result,) = finished(driver)
    assert result.ranking.doc_ids == ("0-2", "0-0", "0-1")
    assert result.scores == (2.0, 0.0, 1.0)


def test_scores_within_a_window_count_only_if_it_held_the_whole_list() -> None:
    for strategy, scores in ((Full(), (2.0, 1.0, 0.0)), (Sliding(size=2, stride=1), (None, None, None))):
        driver = Driver(strategy, Asks(scope="within"))
        driver.add(lists(3)[0])
        answer_all(driver)
        assert finished(driver)[0].scores == scores


def test_split_windows_have_no_scores_within() -> None:
    driver = Driver(Full(), Asks(scope="within", fits=2))
    driver.add(lists(3)[0])
    answer_all(driver)
    (result,) = finished(driver)
    assert result.ranking.doc_ids == ("0-2", "0-1", "0-0")
    assert result.scores == (None, None, None)
    assert [capacity for _, capacity in result.split] == [2]


def test_documents_past_top_k_have_no_scores() -> None:
    driver = Driver(Full(), Asks())
    driver.add(lists(4)[0], top_k=2)
    answer_all(driver)
    (result,) = finished(driver)
    assert result.ranking.doc_ids == ("0-3", "0-2", "0-0", "0-1")
    assert result.scores == (3.0, 2.0, None, None)


def test_documents_of_a_failed_window_have_no_scores() -> None:
    driver = Driver(Halves(), Asks())
    driver.add(lists(4)[0])
    for ticket in driver.next_requests(10):
        failed = ticket.request.prompt[0].content == "0-0"
        driver.put(ticket, Reply(finish="error", error="gone") if failed else number(ticket.request))
    (result,) = finished(driver)
    assert result.ranking.doc_ids == ("0-0", "0-1", "0-3", "0-2")
    assert result.scores == (None, None, 3.0, 2.0)
    assert result.usage.calls == 3


@pytest.mark.parametrize(("aggregate", "scores"), [("max", (4.0, 3.0)), ("first", (3.0, 1.0)), ("sum", (None, None))])
def test_documents_have_the_score_of_their_passage(aggregate: str, scores: tuple[float | None, ...]) -> None:
    class ByText(Asks):
        def verdict(self, window: Window, replies: Sequence[Reply]) -> Verdict:
            numbers = tuple(float(doc.text) for doc in window.docs)
            order = sorted(range(len(window)), key=lambda position: -numbers[position])
            return Verdict(order=tuple(order), status="ok", scores=numbers)

    driver = Driver(Full(), ByText(), passages=PassageAggregation.parse(f"{aggregate},size=1"))
    driver.add(
        Ranking.from_order(Query(id="q", text="words"), [Document(id="a", text="1 4"), Document(id="b", text="3 2")])
    )
    for ticket in driver.next_requests(10):
        driver.put(ticket, Reply())
    (result,) = finished(driver)
    assert result.scores == scores


def test_a_list_that_cannot_be_ranked_does_not_stop_the_others() -> None:
    driver = Driver(Full(), Asks())
    good, other = lists(2, 2)
    bad = Ranking.from_order(Query(id="bad", text="words"), [Document(id="poison"), Document(id="x-1")])
    keys = [driver.add(ranking) for ranking in (good, bad, other)]
    answer_all(driver)
    results = dict(driver.finished())
    assert isinstance(results[keys[1]], ContextOverflowError)
    assert isinstance(results[keys[0]], RankedList)
    assert isinstance(results[keys[2]], RankedList)


def test_a_discarded_list_asks_nothing_more() -> None:
    driver = Driver(Full(), Asks())
    first, second = (driver.add(ranking) for ranking in lists(3, 3))
    (ticket,) = driver.next_requests(1)
    driver.discard(first)
    driver.put(ticket, number(ticket.request))  # a late reply
    assert {ticket.window.owner.key for ticket in driver.next_requests(10)} == {second}
    assert driver.finished() == []


@pytest.mark.parametrize("name", sorted(strategies.names()))
@pytest.mark.parametrize("answered", [0, 1, 7, 40])
def test_every_strategy_ends_at_the_deadline(name: str, answered: int) -> None:
    """What is not judged keeps its given order; no document is lost, whatever was answered before."""
    driver = Driver(open_strategy(name), Asks())
    (ranking,) = lists(30)
    key = driver.add(ranking)
    for _ in range(answered):
        for ticket in driver.next_requests(1):
            driver.put(ticket, number(ticket.request))
    driver.expire(key)
    assert driver.next_requests(10) == []
    ((_, result),) = driver.finished()
    assert isinstance(result, RankedList)
    assert sorted(result.ranking.doc_ids) == sorted(ranking.doc_ids)
    assert len(driver) == 0
    if result.expired:
        assert result.scores == (None,) * 30
    if answered == 0:
        assert result.expired
        assert result.judged == ()
        assert result.ranking.doc_ids == ranking.doc_ids


def test_a_half_answered_window_fails_at_the_deadline() -> None:
    driver = Driver(Full(), Asks())
    key = driver.add(lists(3)[0])
    tickets = driver.next_requests(3)
    driver.put(tickets[0], number(tickets[0].request))
    driver.expire(key)
    ((_, result),) = driver.finished()
    assert isinstance(result, RankedList)
    assert result.expired
    assert [verdict.status for _, verdict in result.judged] == ["error"]
    driver.expire(key)  # again, without effect
    assert driver.finished() == []


SCORED = PromptTemplate(name="scored", prefix="{query}", body="[{rank}] {candidate} scored {score}", suffix="Order.")


class Writes:
    """A backend that reverses whatever it is asked and keeps the prompts."""

    batch_size = 8
    costs_money = False
    identity: Mapping[str, str] = {"model": "writes"}

    def __init__(self) -> None:
        self.tokens: TokenCounter = WordTokens(4096)
        self.asked: list[str] = []

    def generate(self, requests: Sequence[Request]) -> list[Reply]:
        self.asked += [request.prompt[-1].content for request in requests]
        chains = [" > ".join(f"[{n}]" for n in range(len(r.window), 0, -1)) for r in requests]
        return [Reply(text=chain) for chain in chains]


def test_first_stage_scores_reach_the_prompt_and_follow_their_documents() -> None:
    texts = ("red", "blue", "green")
    scored = zip((Document(id=text, text=text) for text in texts), (9.5, 3.0, -1.25), strict=True)
    backend = Writes()
    judge = Generate(backend=backend, template=SCORED)
    ranking = Ranking.from_scores(Query(id="q", text="which"), scored)
    outcome = rank_together([ranking], Sliding(size=2, stride=1), judge, backend)
    assert backend.asked == [
        "which\n[1] blue scored 3.000\n[2] green scored -1.250\nOrder.",
        "which\n[1] red scored 9.500\n[2] green scored -1.250\nOrder.",
    ]
    assert outcome.rankings[0].doc_ids == ("green", "red", "blue")
    assert [window.scores for window, _ in outcome.judged] == [(3.0, -1.25), (9.5, -1.25)]


def test_no_first_stage_scores_are_invented() -> None:
    ranking = Ranking(Query(id="q", text="which"), (Document(id="a"), Document(id="b")))
    outcome = drive_silently([ranking], Full(), Reverse())
    assert [window.scores for window, _ in outcome.judged] == [()]
    with raises(DataError, "no scores"):
        rank_together([ranking], Full(), Generate(backend=Writes(), template=SCORED), Writes())


def test_scores_that_are_not_known_or_already_there_are_left() -> None:
    @dataclass(frozen=True)
    class Strange:
        def __call__(self, ranking: Ranking) -> Plan:
            other = Document(id="other", text="made by the strategy")
            yield [Window(ranking.query, (*ranking.docs, other)), Window(ranking.query, ranking.docs, (7.0, 8.0))]
            return ranking

        def calls(self, n: int) -> int:
            return 2

    outcome = drive_silently(lists(2), Strange(), Reverse())
    assert [window.scores for window, _ in outcome.judged] == [(), (7.0, 8.0)]


def test_a_window_with_some_scores_is_refused() -> None:
    with raises(DataError, "1 scores", "2 documents", "'q'"):
        Window(Query(id="q"), (Document(id="a"), Document(id="b")), (1.0,))


def test_a_plan_that_yields_something_else_fails_its_own_ranking_only() -> None:
    class Wrong(Full):
        def __call__(self, ranking: Ranking) -> Plan:
            yield ["x"]  # type: ignore[list-item]
            return ranking

    driver = Driver(Full(), Asks())
    wrong = driver.add(Ranking.from_ids(Query(id="q", text="q"), ["a", "b"], [2.0, 1.0]), strategy=Wrong())
    driver.add(lists(3)[0])
    assert len(driver) == 1
    ((key, result),) = driver.finished()
    assert (key, type(result)) == (wrong, AttributeError)
    assert len(driver.next_requests(10)) == 3


@pytest.mark.parametrize("end", ["put", "expire", "discard"])
def test_rankings_that_have_ended_are_freed_at_once(end: str) -> None:
    """Without waiting for the collector of circles, also if their windows were split."""

    def alive() -> int:
        return sum(type(found) is Ranking for found in gc.get_objects())

    gc.collect()
    gc.disable()
    try:
        driver, before = Driver(Sliding(size=6, stride=3), Asks(fits=4)), alive()
        keys = [driver.add(ranking) for ranking in lists(10, 10)]
        while end == "put" and (tickets := driver.next_requests(50)):
            for ticket in tickets:
                driver.put(ticket, Reply(scores=(1.0,)))
        for key in keys:
            getattr(driver, end)(key) if end != "put" else None
        assert len(driver) == 0
        driver.finished()
        tickets = ticket = None  # type: ignore[assignment]
        assert alive() == before
    finally:
        gc.enable()
