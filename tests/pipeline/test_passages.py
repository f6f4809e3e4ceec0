"""Long documents in passages: cut by hand, put together by hand, driven with fake judges."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rerank.errors import UnknownNameError, UsageError
from rerank.judges.base import Verdict
from rerank.pipeline.passages import PassageAggregation
from rerank.strategies import open_strategy
from rerank.types import Document, Query, Ranking, Window
from tests.judging import SilentJudge, drive_silently
from tests.raising import raises

QUERY = Query(id="q", text="words")


def words(start: int, end: int) -> str:
    return " ".join(f"w{n}" for n in range(start, end))


def ranking(*docs: Document) -> Ranking:
    return Ranking(QUERY, docs, tuple(float(10 - place) for place in range(len(docs))))


class Wants(SilentJudge):
    """Puts windows into the order of a list of ids; keeps what it was shown."""

    def __init__(self, *ids: str) -> None:
        self.ids, self.shown = list(ids), list[Window]()

    def decide(self, window: Window) -> Verdict:
        self.shown.append(window)
        order = sorted(range(len(window)), key=lambda position: self.ids.index(window.docs[position].id))
        return Verdict(order=tuple(order), status="ok")


@pytest.mark.parametrize(
    ("count", "spans"),
    [
        (0, [(0, 0)]),
        (1, [(0, 1)]),
        (10, [(0, 10)]),
        (11, [(0, 10), (5, 11)]),
        (15, [(0, 10), (5, 15)]),
        (16, [(0, 10), (5, 15), (10, 16)]),
        (20, [(0, 10), (5, 15), (10, 20)]),
    ],
)
def test_cuts(count: int, spans: list[tuple[int, int]]) -> None:
    document = Document(id="d#1", title="T", text=words(0, count), image="i.png")
    passages = PassageAggregation(size=10, stride=5).split(document)
    assert [passage.text for passage in passages] == [words(*span) for span in spans]
    assert [passage.id for passage in passages] == [f"d#1#{n}" for n in range(1, len(spans) + 1)]
    assert {(p.title, p.image, p.part_of) for p in passages} == {("T", "i.png", "d#1")}
    assert PassageAggregation(aggregate="first", size=10, stride=5).split(document) == passages[:1]


def test_white_space_stays_and_unspaced_scripts_are_cut_by_characters() -> None:
    assert [p.text for p in PassageAggregation(size=2, stride=2).split(Document(id="d", text="  a \n b\t\tc "))] == [
        "a \n b",
        "c",
    ]
    texts = [p.text for p in PassageAggregation(size=3, stride=3).split(Document(id="d", text="東京都 is big。はい"))]
    assert texts == ["東京都", "is big。は", "い"]


@given(st.integers(0, 80), st.integers(1, 12).flatmap(lambda size: st.tuples(st.just(size), st.integers(1, size))))
def test_every_word_is_in_a_passage_and_none_is_longer(count: int, options: tuple[int, int]) -> None:
    size, stride = options
    texts = [
        p.text.split()
        for p in PassageAggregation(size=size, stride=stride).split(Document(id="d", text=words(0, count)))
    ]
    assert list(dict.fromkeys(word for text in texts for word in text)) == words(0, count).split()
    assert all(len(text) <= size for text in texts)
    assert all(set(text) - {w for other in texts[:at] for w in other} for at, text in enumerate(texts) if count)


LONG, SHORT, OTHER = Document(id="l", text=words(0, 4)), Document(id="s", text="w0"), Document(id="o", text=words(0, 3))


@pytest.mark.parametrize(
    ("aggregate", "wanted", "expected"),
    [
        # passages of two words: l#1 l#2, s#1, o#1 o#2
        ("max", ["o#2", "l#2", "s#1", "l#1", "o#1"], "ols"),
        ("max", ["s#1", "o#1", "o#2", "l#1", "l#2"], "sol"),
        ("first", ["o#1", "l#1", "s#1"], "ols"),
        # s 1; l 1/2 + 1/3 = .833; o 1/4 + 1/5 = .45
        ("sum", ["s#1", "l#1", "l#2", "o#1", "o#2"], "slo"),
        # l 1; o 1/2 + 1/3 = .83; s 1/4, l's second adds 1/5
        ("sum", ["l#1", "o#1", "o#2", "s#1", "l#2"], "los"),
        # s 1/2; o 1 + 1/5; l 1/3 + 1/4 = .583: the two of l outweigh the better one of s
        ("sum", ["o#1", "s#1", "l#1", "l#2", "o#2"], "ols"),
    ],
)
def test_aggregates_by_hand(aggregate: str, wanted: list[str], expected: str) -> None:
    judge, given_list = Wants(*wanted), ranking(LONG, SHORT, OTHER)
    passages = PassageAggregation(aggregate=aggregate, size=2, stride=2)  # type: ignore[arg-type]
    outcome = drive_silently([given_list], open_strategy("full"), judge, passages=passages)
    assert "".join(outcome.rankings[0].doc_ids) == expected
    assert outcome.rankings[0].scores == (1.0, 1 / 2, 1 / 3)
    assert outcome.rankings[0].docs[0] in given_list.docs
    (window,) = judge.shown
    assert sorted(doc.id for doc in window.docs) == sorted(wanted)
    assert window.scores == tuple(10.0 - "lso".index(doc.part_of) for doc in window.docs)


def test_equal_sums_keep_the_given_order() -> None:
    # ranks 2, 3, 6 add up to 1, as rank 1 does
    long, short = Document(id="z", text=words(0, 3)), Document(id="y", text="w0")
    fill = [Document(id=f"f{n}", text="w0") for n in range(2)]
    wanted = ["y#1", "z#1", "z#2", "f0#1", "f1#1", "z#3"]
    for given_list in (ranking(long, short, *fill), ranking(short, long, *fill)):
        outcome = drive_silently(
            [given_list], open_strategy("full"), Wants(*wanted), passages=PassageAggregation.parse("sum,size=1")
        )
        assert outcome.rankings[0].doc_ids == given_list.doc_ids


@pytest.mark.parametrize("aggregate", ["max", "first", "sum"])
def test_passages_left_as_they_are_leave_documents_as_they_are(aggregate: str) -> None:
    class Asleep(SilentJudge):
        def decide(self, window: Window) -> Verdict:
            return Verdict(order=tuple(range(len(window))), status="error")

    given_list = ranking(SHORT, LONG, OTHER)
    outcome = drive_silently(
        [given_list], open_strategy("full"), Asleep(), passages=PassageAggregation.parse(f"{aggregate},size=1")
    )
    assert outcome.rankings[0].doc_ids == given_list.doc_ids


def test_blank_queries_and_empty_lists() -> None:
    blank = Ranking.from_order(Query(id="b"), [SHORT, LONG])
    empty = Ranking(QUERY, (), ())
    outcome = drive_silently(
        [blank, empty], open_strategy("full"), Wants(), passages=PassageAggregation(aggregate="sum", size=1, stride=1)
    )
    assert [one.doc_ids for one in outcome.rankings] == [("s", "l"), ()]


def test_top_k_counts_documents() -> None:
    judge = Wants("o#2", "o#1", "s#1", "l#1", "l#2")
    given_list = ranking(LONG, SHORT, OTHER)
    passages = PassageAggregation(size=2, stride=2)
    assert drive_silently([given_list], open_strategy("full"), judge, top_k=2, passages=passages).rankings[
        0
    ].doc_ids == ("o", "s", "l")
    assert drive_silently([given_list], open_strategy("full"), judge, top_k=1, passages=passages).rankings[
        0
    ].doc_ids == ("o", "l", "s")


@given(st.lists(st.integers(0, 9), min_size=1, max_size=8), st.sampled_from(["max", "first", "sum"]), st.randoms())
def test_no_document_is_lost(lengths: list[int], aggregate: str, chance: object) -> None:
    class Shuffles(SilentJudge):
        def decide(self, window: Window) -> Verdict:
            order = list(range(len(window)))
            chance.shuffle(order)  # type: ignore[attr-defined]
            return Verdict(order=tuple(order), status="ok")

    names = ["a", "a#1", "a#1#1", "#", "b", "", "c", "d"][: len(lengths)]
    docs = [Document(id=name, text=words(0, n)) for name, n in zip(names, lengths, strict=True)]
    strategy = open_strategy("sliding,size=4,stride=2")
    outcome = drive_silently(
        [ranking(*docs)], strategy, Shuffles(), passages=PassageAggregation.parse(f"{aggregate},size=3,stride=2")
    )
    assert sorted(outcome.rankings[0].doc_ids) == sorted(doc.id for doc in docs)


def test_parsing() -> None:
    assert PassageAggregation.parse("max") == PassageAggregation(aggregate="max", size=150, stride=75)
    assert PassageAggregation.parse("first,size=200,stride=10") == PassageAggregation(
        aggregate="first", size=200, stride=10
    )
    assert PassageAggregation.parse("max,size=1").stride == 1


@pytest.mark.parametrize(
    ("text", "error", "named"),
    [
        ("mean", UnknownNameError, ("'mean'", "first, max, sum")),
        ("fist", UnknownNameError, "Did you mean 'first'"),
        ("max,words=3", UnknownNameError, ("'words'", "size, stride")),
        ("max,size=x", UsageError, ("size='x'",)),
        ("max,size=0", UsageError, ("0 words",)),
        ("max,size=10,stride=11", UsageError, ("10", "11")),
        ("max,size=10,stride=0", UsageError, ("10", "0 < stride")),
        ("max:150", UsageError, ("max,size=150,stride=75",)),
        ("size=150", UnknownNameError, ("first, max, sum",)),
        ("", UsageError, ("NAME",)),
    ],
)
def test_bad_options(text: str, error: type[Exception], named: tuple[str, ...]) -> None:
    with raises(error, *named):
        PassageAggregation.parse(text)
