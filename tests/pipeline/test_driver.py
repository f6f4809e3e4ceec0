"""The driver: batches of windows, results, oversized windows and failures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rerank.errors import DataError
from rerank.judges.base import Status, Verdict
from rerank.judges.generate import Generate
from rerank.pipeline.driver import drive
from rerank.prompts.base import TokenCounter
from rerank.prompts.template import PromptTemplate
from rerank.prompts.word_tokens import WordTokens
from rerank.strategies.full import Full
from rerank.strategies.sliding import Sliding
from rerank.tasks import Reply, Request
from rerank.types import Document, Plan, Query, Ranking, Window
from tests.raising import raises


class Reverse:
    """Reverses every window; counts batches."""

    def __init__(self) -> None:
        self.batches: list[int] = []

    def order(self, windows: Sequence[Window]) -> list[Verdict]:
        self.batches.append(len(windows))
        return [Verdict(order=tuple(reversed(range(len(w)))), status="ok") for w in windows]


def lists(*sizes: int) -> list[Ranking]:
    return [
        Ranking.from_order(Query(id=f"q{at}", text="words"), [Document(id=f"{at}-{n}") for n in range(size)])
        for at, size in enumerate(sizes)
    ]


def test_all_next_windows_reach_the_judge_together() -> None:
    judge = Reverse()
    drive(lists(100, 100, 100), Sliding(), judge)
    assert judge.batches == [3] * 9


def test_plans_of_different_length_end_when_they_end() -> None:
    judge = Reverse()
    outcome = drive(lists(0, 1, 5, 45), Sliding(), judge)
    assert judge.batches == [2, 1, 1, 1]
    assert [len(ranking) for ranking in outcome.rankings] == [0, 1, 5, 45]
    assert outcome.rankings[2].doc_ids == ("2-4", "2-3", "2-2", "2-1", "2-0")


def test_scores_of_the_result_are_reciprocal_ranks() -> None:
    (ranking,) = drive(lists(3), Full(), Reverse()).rankings
    assert ranking.scores == (1.0, 1 / 2, 1 / 3)


def test_a_blank_query_asks_nothing_and_keeps_its_order() -> None:
    judge = Reverse()
    blank = Ranking.from_order(Query(id="q", text=" \n"), [Document(id="a"), Document(id="b")])
    outcome = drive([blank], Full(), judge)
    assert outcome.rankings[0].doc_ids == ("a", "b")
    assert judge.batches == []


def test_no_lists() -> None:
    outcome = drive([], Full(), Reverse())
    assert outcome.rankings == ()
    assert outcome.failure_rate() == 0.0


def test_a_plan_may_ask_several_windows_at_once() -> None:
    @dataclass(frozen=True)
    class Halves:
        def __call__(self, ranking: Ranking) -> Plan:
            half = len(ranking) // 2
            parts = [(0, ranking.docs[:half]), (half, ranking.docs[half:])]
            orders = yield [Window(ranking.query, docs) for _, docs in parts]
            for (start, _), order in zip(parts, orders, strict=True):
                ranking = ranking.reorder(start, order)
            return ranking

        def calls(self, n: int) -> int:
            return 2

    judge = Reverse()
    outcome = drive(lists(4, 6), Halves(), judge)
    assert judge.batches == [4]
    assert outcome.rankings[0].doc_ids == ("0-1", "0-0", "0-3", "0-2")
    assert outcome.rankings[1].doc_ids == ("1-2", "1-1", "1-0", "1-5", "1-4", "1-3")


def test_counts_windows_by_status_and_failures() -> None:
    class Mixed:
        def order(self, windows: Sequence[Window]) -> list[Verdict]:
            statuses: tuple[Status, ...] = ("ok", "repaired", "partial", "empty", "refused", "error")
            keep = tuple(range(2))
            return [Verdict(order=keep, status=s) for _, s in zip(windows, statuses, strict=True)]

    outcome = drive(lists(2, 2, 2, 2, 2, 2), Full(), Mixed())
    assert outcome.windows() == dict.fromkeys(("ok", "repaired", "partial", "empty", "refused", "error"), 1)
    assert outcome.failure_rate() == 0.5


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
    outcome = drive([Ranking.from_scores(Query(id="q", text="which"), scored)], Sliding(size=2, stride=1), judge)
    assert backend.asked == [
        "which\n[1] blue scored 3.000\n[2] green scored -1.250\nOrder.",
        "which\n[1] red scored 9.500\n[2] green scored -1.250\nOrder.",
    ]
    assert outcome.rankings[0].doc_ids == ("green", "red", "blue")
    assert [window.scores for window, _ in outcome.judged] == [(3.0, -1.25), (9.5, -1.25)]


def test_scores_that_are_not_known_or_already_there_are_left() -> None:
    @dataclass(frozen=True)
    class Strange:
        def __call__(self, ranking: Ranking) -> Plan:
            other = Document(id="other", text="made by the strategy")
            yield [Window(ranking.query, (*ranking.docs, other)), Window(ranking.query, ranking.docs, (7.0, 8.0))]
            return ranking

        def calls(self, n: int) -> int:
            return 2

    outcome = drive(lists(2), Strange(), Reverse())
    assert [window.scores for window, _ in outcome.judged] == [(), (7.0, 8.0)]


def test_a_window_with_some_scores_is_refused() -> None:
    with raises(DataError, "1 scores", "2 documents", "'q'"):
        Window(Query(id="q"), (Document(id="a"), Document(id="b")), (1.0,))
