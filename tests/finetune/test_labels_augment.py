"""Variants of lists: what changes, what does not, and that the seed decides."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rerank.errors import UsageError
from rerank.finetune.labels.filters import Augmentation, augment_lists, truncate_texts
from rerank.finetune.labels.lists import LabelList, TrainingList
from rerank.types import Document, Query
from tests.raising import raises

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
