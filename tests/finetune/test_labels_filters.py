"""What passes: agreement and length, and that whatever is dropped is counted."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kendalltau

from rerank.errors import DataError, UsageError
from rerank.finetune.labels.filters import ListFilter, agreement, filter_labels
from rerank.finetune.labels.lists import LabelList
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
