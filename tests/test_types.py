"""The core data types and their invariants."""

from __future__ import annotations

import copy
import math
import pickle
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rerank.errors import DataError
from rerank.types import (
    Document,
    Qrels,
    Query,
    Ranking,
    Run,
    make_ranking_scores_strictly_decrease,
    ranking_score_to_float32,
    ranking_scores_to_float32,
)
from tests.raising import raises

QUERY = Query(id="q", text="words")
ids = st.text(min_size=1, max_size=4)
finite = st.floats(allow_nan=False, allow_infinity=False)
scored = st.dictionaries(ids, finite, max_size=12)


def make(scores: dict[str, float]) -> Ranking:
    return Ranking.from_scores(QUERY, [(Document(id=i), s) for i, s in scores.items()])


def single(value: float) -> float:
    return float(struct.unpack("<f", struct.pack("<f", value))[0])


@given(scored)
def test_from_scores_sorts_by_score_then_id_both_descending(scores: dict[str, float]) -> None:
    expected = sorted(scores, key=lambda i: (scores[i], i), reverse=True)
    assert list(make(scores).doc_ids) == expected


@given(scored, st.randoms())
def test_from_scores_does_not_depend_on_the_order_given(scores: dict[str, float], random: object) -> None:
    items = list(scores.items())
    random.shuffle(items)  # type: ignore[attr-defined]
    assert make(dict(items)) == make(scores)


@given(scored, st.data())
def test_reorder_keeps_every_document_and_the_scores(scores: dict[str, float], data: st.DataObject) -> None:
    ranking = make(scores)
    start = data.draw(st.integers(0, len(ranking)))
    size = data.draw(st.integers(0, len(ranking) - start))
    order = tuple(data.draw(st.permutations(range(size))))
    after = ranking.reorder(start, order)
    assert sorted(after.doc_ids) == sorted(ranking.doc_ids)
    assert after.scores == ranking.scores
    assert after.doc_ids[:start] == ranking.doc_ids[:start]
    assert after.doc_ids[start + size :] == ranking.doc_ids[start + size :]
    assert after.doc_ids[start : start + size] == tuple(ranking.doc_ids[start + p] for p in order)


@pytest.mark.parametrize("order", [(0, 0), (1,), (0, 2), (-1, 0), (0, 1, 2, 3)])
def test_reorder_refuses_what_would_lose_a_document(order: tuple[int, ...]) -> None:
    with raises(DataError, "q"):
        make({"a": 3.0, "b": 2.0, "c": 1.0}).reorder(0, order)


def test_reorder_refuses_a_negative_start() -> None:
    with raises(DataError, "q"):
        make({"a": 3.0, "b": 2.0}).reorder(-1, (0,))


@pytest.mark.parametrize("score", [math.nan, math.inf, -math.inf])
def test_scores_that_are_no_numbers_are_refused(score: float) -> None:
    with raises(DataError, str(score)):
        make({"a": score, "b": 1.0})
    with raises(DataError, str(score)):
        Ranking(QUERY, (Document(id="a"),), (score,))


def test_duplicates_rising_scores_and_unequal_lengths_are_refused() -> None:
    a, b = Document(id="a"), Document(id="b")
    with raises(DataError, "'a'", "'q'"):
        Ranking(QUERY, (a, a), (2.0, 1.0))
    with raises(DataError, "2.0", "'b'", "1.0"):
        Ranking(QUERY, (a, b), (1.0, 2.0))
    with raises(DataError, "1 documents", "2 scores"):
        Ranking(QUERY, (a,), (1.0, 2.0))


def test_a_ranking_of_ids_is_one_of_documents_without_text() -> None:
    query, names, values = Query(id="q"), ("b", "a", "c"), (3.0, 2.0, 2.0)

    def lazy() -> Ranking:
        return Ranking.from_ids(query, names, values)

    plain = Ranking(query, tuple(Document(id=name) for name in names), values)
    assert lazy() == plain
    assert hash(lazy()) == hash(plain)
    assert repr(lazy()) == repr(plain)
    assert pickle.loads(pickle.dumps(lazy())) == plain
    assert copy.copy(lazy()) == plain
    assert lazy().top(2) == plain.top(2)
    assert lazy().reorder(0, (1, 0)) == plain.reorder(0, (1, 0))
    assert lazy().reorder(0, (1, 0)).doc_ids == ("a", "b", "c")
    assert lazy().without("a") == plain.without("a")
    assert (len(lazy()), lazy().doc_ids, lazy().written_scores) == (3, names, values)
    assert lazy().docs is not lazy().docs
    assert (kept := lazy()).docs is kept.docs
    assert Ranking.from_ids(query, (), ()) == Ranking(query, ())
    with pytest.raises(AttributeError):
        _ = lazy().documents  # type: ignore[attr-defined]
    for bad_ids, bad_values in ((("a", "a"), (2.0, 1.0)), (("a", "b"), (1.0, 2.0)), (("a",), (math.inf,))):
        with raises(DataError, "'q'"):
            Ranking.from_ids(query, bad_ids, bad_values)


def test_equal_texts_are_two_documents() -> None:
    ranking = Ranking.from_order(QUERY, [Document(id="a", text="same"), Document(id="b", text="same")])
    assert ranking.doc_ids == ("a", "b")
    assert ranking.scores == (1.0, 0.5)


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False)))
def test_strictly_decreasing_even_in_single_precision(values: list[float]) -> None:
    scores = make_ranking_scores_strictly_decrease(sorted(values, reverse=True))
    assert all(above > below for above, below in zip(scores, scores[1:], strict=False))
    assert all(single(score) == score for score in scores)


@given(st.lists(st.floats(-1e6, 1e6, width=32), unique=True))
def test_scores_that_differ_in_single_precision_stay_as_they_are(values: list[float]) -> None:
    ordered = sorted({value + 0.0 for value in values}, reverse=True)
    assert make_ranking_scores_strictly_decrease(ordered) == ordered


@given(st.lists(st.floats(allow_nan=False)))
def test_many_scores_are_rounded_as_each_alone(values: list[float]) -> None:
    assert ranking_scores_to_float32(values) == [ranking_score_to_float32(value) for value in values]


def test_strictly_decreasing_passes_zero() -> None:
    assert make_ranking_scores_strictly_decrease([0.0, 0.0, 0.0])[0] == 0.0
    assert make_ranking_scores_strictly_decrease([0.0, 0.0])[1] < 0.0


def test_run_refuses_two_lists_for_a_query_and_keeps_the_order() -> None:
    a = Ranking.from_order(Query(id="2"), [])
    b = Ranking.from_order(Query(id="1"), [])
    assert list(Run([a, b])) == ["2", "1"]
    with raises(DataError, "'2'"):
        Run([a, a])


def test_values_cannot_be_written_to() -> None:
    qrels = Qrels({"q": {"d": 1}})
    with pytest.raises(TypeError):
        qrels["q"]["d"] = 2  # type: ignore[index]
    with pytest.raises(TypeError):
        Run([])["q"] = 1  # type: ignore[index]
    with pytest.raises(AttributeError):
        QUERY.id = "x"  # type: ignore[misc]


def test_top_and_without() -> None:
    ranking = make({"a": 3.0, "b": 2.0, "c": 1.0})
    assert ranking.top(2).doc_ids == ("a", "b")
    assert ranking.top(9) == ranking
    assert ranking.without("b").doc_ids == ("a", "c")
    assert ranking.without("z") == ranking
    assert Run([ranking]).top(1)["q"].doc_ids == ("a",)
    assert ranking.top(0).docs == ()
    for top in (ranking.top, Run([ranking]).top):
        with raises(DataError, "-1", "'q'"):
            top(-1)


def test_reprs_are_short() -> None:
    assert repr(Run([make({"a": 1.0})], name="x")) == "Run('x', 1 queries)"
    assert repr(Qrels({"q": {"d": 1, "e": 0}}, name="x")) == "Qrels('x', 1 queries, 2 judgments)"


def test_full_text_joins_title_and_body() -> None:
    assert Document(id="1", text="body", title="head").full_text == "head\nbody"
    assert Document(id="1", text="body").full_text == "body"


def test_runs_and_qrels_can_be_pickled() -> None:
    document = Document(id="d", text="a text", source={"url": "u"})
    run = Run([Ranking.from_scores(Query(id="q", text="words"), [(document, 1.0)])], name="mine")
    qrels = Qrels({"q": {"d": 1}}, name="theirs")
    for made in (run, qrels):
        copy = pickle.loads(pickle.dumps(made))
        assert (copy, copy.name) == (made, made.name)
