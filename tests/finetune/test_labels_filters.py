"""What passes: agreement and length, and that whatever is dropped is counted."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kendalltau

from rerank.errors import DataError, UsageError
from rerank.finetune.labels.filters import (
    Augmentation,
    ListFilter,
    agreement,
    augment_lists,
    filter_labels,
    truncate_texts,
)
from rerank.finetune.labels.lists import LabelList, TrainingList
from rerank.types import Document, Query
from tests.raising import raises


def label(qid: str, initial: str, final: str) -> LabelList:
    return LabelList(qid=qid, initial=tuple(initial), final=tuple(final))


SAME, TURNED, NEAR, SHORT = (
    label("same", "abcd", "abcd"),
    label("turned", "abcd", "dcba"),
    label("near", "abcd", "abdc"),
    label("short", "ab", "ba"),
)


def passing(wanted: ListFilter, **more: Any) -> tuple[list[str], dict[str, int]]:
    dropped: Counter[str] = Counter()
    kept = filter_labels([SAME, TURNED, NEAR, SHORT], wanted, dropped=dropped, **more)
    return [one.qid for one in kept], dict(dropped)


@given(st.permutations(range(7)))
def test_agreement_is_kendalls_tau(final: list[int]) -> None:
    names = [f"d{n}" for n in range(7)]
    one = LabelList(qid="q", initial=tuple(names), final=tuple(names[n] for n in final))
    ranks = [final.index(n) for n in range(7)]
    assert agreement(one) == pytest.approx(kendalltau(range(7), ranks).statistic)


def test_lists_that_say_too_much_or_too_little_new_are_dropped() -> None:
    assert passing(ListFilter(max_tau=0.9)) == (["turned", "near", "short"], {"lists: too much agreement": 1})
    assert passing(ListFilter(min_tau=0)) == (["same", "near"], {"lists: too little agreement": 2})
    assert passing(ListFilter(min_tau=2 / 3 - 1e-9, max_tau=2 / 3 + 1e-9))[0] == ["near"]


def test_agreement_of_two_teachers() -> None:
    other = {"same": SAME, "turned": label("turned", "abx", "xba"), "near": label("near", "azy", "yza")}
    kept, dropped = passing(ListFilter(min_tau=0.5), other=other)
    assert kept == ["same", "turned"]  # of turned both know a and b, and put b first
    assert dropped == {"lists: fewer than two documents to compare": 1, "lists: the other teacher has none": 1}


def test_lengths_of_lists() -> None:
    assert passing(ListFilter(min_docs=3)) == (["same", "turned", "near"], {"lists: too few documents": 1})
    assert passing(ListFilter(max_docs=3)) == (["short"], {"lists: too many documents": 3})


def test_lengths_of_documents() -> None:
    words = {"a": 1, "b": 5, "c": 9, "d": 50}
    dropped: Counter[str] = Counter()
    kept = list(filter_labels([TURNED, SHORT], ListFilter(min_words=2, max_words=20), words=words, dropped=dropped))
    assert [(one.initial, one.final) for one in kept] == [(("b", "c"), ("c", "b"))]
    assert dropped == {"documents: too short": 2, "documents: too long": 1, "lists: too few documents": 1}
    with raises(DataError, "document 'a'", "query 'turned'", "--collection"):
        list(filter_labels([TURNED], ListFilter(min_words=2), words={}, dropped=dropped))
    none: Counter[str] = Counter()
    assert list(filter_labels([SHORT], ListFilter(min_words=99), words=words, dropped=none)) == []
    assert none["lists: too few documents"] == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"min_tau": 0.5, "max_tau": 0.1}, "--min-tau is 0.5, but --max-tau is 0.1"),
        ({"min_docs": 0}, "--min-docs is 0"),
        ({"min_docs": 5, "max_docs": 3}, "--min-docs is 5, but --max-docs is 3"),
        ({"min_words": 9, "max_words": 3}, "--min-words is 9"),
        ({"max_tau": 1.5}, "--max-tau is 1.5"),
    ],
)
def test_limits_that_make_no_sense(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        ListFilter(**options)


LABEL = LabelList(qid="q", initial=tuple("abcdefgh"), final=tuple("hgfedcba"), scores=tuple(map(float, range(8))))
DOCS = tuple(Document(id=name, text=f"{name} two  three four", title=f"title of {name}") for name in LABEL.initial)
LIST = TrainingList(query=Query(id="q", text="w"), docs=DOCS, order=LABEL.order, scores=LABEL.scores)


@given(
    shuffle=st.booleans(),
    docs=st.none() | st.integers(2, 10),
    draw=st.booleans(),
    copies=st.integers(1, 3),
    keep=st.booleans(),
    seed=st.integers(0, 99),
)
def test_the_label_keeps_its_order(**options: Any) -> None:
    try:
        wanted = Augmentation(**options)
    except UsageError:
        return
    made = list(augment_lists([LABEL], wanted))
    assert len(made) == wanted.copies + wanted.keep
    for one in made[wanted.keep :]:
        assert list(one.final) == sorted(one.initial, reverse=True)
        assert one.scores == tuple(float("abcdefgh".index(name)) for name in one.initial)
        assert len(one) <= (wanted.docs or 8)
        if not wanted.shuffle:
            assert list(one.initial) == sorted(one.initial)
        if not wanted.draw:
            assert sorted(one.initial) == list("abcdefgh")[: wanted.docs]
    if wanted.keep:
        assert made[0] == LABEL
    assert made == list(augment_lists([LABEL], wanted))


def test_numbers_of_documents_are_drawn_evenly() -> None:
    sizes = Counter(len(one) for one in augment_lists([LABEL], Augmentation(draw=True, docs=5, copies=2000)))
    assert set(sizes) == {2, 3, 4, 5}
    assert all(400 < count < 600 for count in sizes.values())
    starts = Counter(one.initial[0] for one in augment_lists([LABEL], Augmentation(shuffle=True, copies=2000)))
    assert all(180 < count < 320 for count in starts.values())


def test_seed_query_and_place_decide() -> None:
    first = [one.initial for one in augment_lists([LABEL, LABEL], Augmentation(shuffle=True, copies=2))]
    assert len(set(first)) == 4
    other = [one.initial for one in augment_lists([LABEL, LABEL], Augmentation(shuffle=True, copies=2, seed=1))]
    assert first != other


def test_lists_of_one_document_stay() -> None:
    single = LabelList(qid="q", initial=("a",), final=("a",))
    assert list(augment_lists([single], Augmentation(draw=True, shuffle=True))) == [single]


def test_texts_are_cut_alike() -> None:
    cut = truncate_texts(LIST, 2)
    assert [(doc.title, doc.text) for doc in cut.docs[:2]] == [("title of", "a two"), ("title of", "b two")]
    assert truncate_texts(LIST, 3).docs[0].text == "a two  three"
    assert truncate_texts(LIST, 99) == LIST
    with raises(UsageError, "--cut-words is 0"):
        truncate_texts(LIST, 0)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({}, ["--shuffle", "--docs", "--draw"]),
        ({"copies": 2}, ["--shuffle", "--docs", "--draw"]),
        ({"docs": 1}, ["--docs is 1"]),
        ({"shuffle": True, "copies": 0}, ["--copies is 0"]),
        ({"docs": 5, "copies": 2}, ["--copies 2", "--shuffle", "--draw"]),
    ],
)
def test_variants_that_make_no_sense(options: dict[str, Any], named: list[str]) -> None:
    with raises(UsageError, *named):
        Augmentation(**options)
