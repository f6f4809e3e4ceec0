"""Splits by query and the check for leaks, held against a plain implementation."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rerank.errors import DataError, UsageError
from rerank.finetune.labels.lists import LabelList
from rerank.finetune.labels.splits import (
    THRESHOLD,
    SplitShares,
    find_query_leaks,
    find_split_leaks,
    normalise_query,
    query_trigrams,
    remove_leaking_lists,
    split_labels,
)
from tests.raising import raises


def label(qid: str, copy: int = 0) -> LabelList:
    return LabelList(qid=qid, initial=("a", "b"), final=("b", "a") if copy else ("a", "b"))


LABELS = [label(f"q{at}") for at in range(20)]
TEXTS = {f"q{at}": f"question about subject{at}" for at in range(20)}


def test_shares_are_as_asked_and_do_not_depend_on_the_files_order() -> None:
    made = split_labels(LABELS, SplitShares(dev=0.2, test=0.1, seed=3), texts=TEXTS)
    assert [len(part) for part in (made["train"], made["dev"], made["test"])] == [14, 4, 2]
    assert sorted(one.qid for part in (made["train"], made["dev"], made["test"]) for one in part) == sorted(TEXTS)
    mixed = random.Random(0).sample(LABELS, len(LABELS))
    again = split_labels(mixed, SplitShares(dev=0.2, test=0.1, seed=3), texts=TEXTS)
    assert {one.qid for one in again["dev"]} == {one.qid for one in made["dev"]}
    assert {one.qid for one in split_labels(LABELS, SplitShares(dev=0.2, test=0.1, seed=4), texts=TEXTS)["dev"]} != {
        one.qid for one in made["dev"]
    }


def test_a_query_is_never_on_both_sides() -> None:
    labels = [label(f"q{at}", copy) for copy in range(3) for at in range(20)]
    texts = {f"q{at}": f"Question {at // 2}, please!" if at % 2 else f"question {at // 2} please" for at in range(20)}
    for seed in range(5):
        made = split_labels(labels, SplitShares(dev=0.3, seed=seed), texts=texts)
        train, dev = ({normalise_query(texts[one.qid]) for one in part} for part in (made["train"], made["dev"]))
        assert not train & dev
        assert len(made["dev"]) == 3 * 2 * 3  # three of ten texts, two queries each, three lists each


def test_without_texts_ids_are_what_counts() -> None:
    made = split_labels([*LABELS, *LABELS], SplitShares(dev=0.1), texts={})
    assert (len(made["train"]), len(made["dev"]), made["test"]) == (36, 4, ())


def test_shares_that_leave_nothing() -> None:
    for shares in ((0.0, 0.0), (0.5, 0.5), (-0.1, 0.3)):
        with raises(UsageError, "--dev", "--test"):
            SplitShares(dev=shares[0], test=shares[1])
    with raises(DataError, "2 queries", "1 in test", "1 in dev"):
        split_labels(LABELS[:2], SplitShares(dev=0.1, test=0.1), texts=TEXTS)


VOCABULARY = ("how", "to", "sort", "a", "list", "lists", "in", "python", "3", "sorting", "what's")
WORDS = st.lists(st.sampled_from(VOCABULARY), max_size=7).map(" ".join)


@given(st.lists(WORDS, min_size=1, max_size=6), st.lists(WORDS, min_size=1, max_size=6), st.floats(0.2, 1.0))
def test_pairs_are_those_of_a_plain_comparison(train: list[str], test: list[str], threshold: float) -> None:
    ours, theirs = (
        {f"{side}{at}": text for at, text in enumerate(texts)} for side, texts in (("a", train), ("b", test))
    )
    expected = set()
    for a, left in ours.items():
        for b, right in theirs.items():
            x, y = query_trigrams(left), query_trigrams(right)
            if x | y and len(x & y) / len(x | y) >= threshold:
                expected.add((a, b))
    assert {(leak.train, leak.test) for leak in find_query_leaks(ours, {"": theirs}, threshold=threshold)} == expected


def test_the_coefficient_by_hand() -> None:
    assert query_trigrams("to do to") == {" to", "to ", " do", "do "}
    assert query_trigrams("a, A") == {" a "}
    (leak,) = find_query_leaks({"1": "to do"}, {"": {"2": "do be"}}, threshold=0.3)
    assert leak.similarity == pytest.approx(2 / 6)  # shared: " do", "do "; besides: " to", "to ", " be", "be "
    assert not leak.exact


def test_the_threshold_lets_near_misses_pass_and_stops_rewordings() -> None:
    said = {"1": "what is the capital of france", "2": "how to sort a list in python", "3": "Je, Ice Cube ana watoto?"}
    asked = {
        "a": "what is the capital of germany",
        "b": "how do I sort a list in python?",
        "c": "Je,ice cube ana  watoto?",
        "d": "what's the capital of France",
    }
    found = {(leak.train, leak.test): leak for leak in find_query_leaks(said, {"": asked})}
    assert set(found) == {("1", "d"), ("2", "b"), ("3", "c")}
    assert found["3", "c"].exact
    assert found["3", "c"].similarity == 1
    assert min(leak.similarity for leak in found.values()) >= THRESHOLD
    assert [leak.exact for leak in find_query_leaks(said, {"": asked})] == [True, False, False]


def test_texts_without_words_are_compared_as_they_are() -> None:
    assert normalise_query(" ?! ") == "?!"
    assert [leak.exact for leak in find_query_leaks({"1": "?!"}, {"": {"2": "?!", "3": "!"}})] == [True]
    assert find_query_leaks({}, {"": {"1": "x"}}) == find_query_leaks({"1": "x"}, {"": {}}) == []
    assert find_query_leaks({"1": ""}, {"": {"2": ""}}) == []
    with raises(UsageError, "--threshold is 0"):
        find_query_leaks({}, {}, threshold=0)


def test_leaks_of_a_split_say_where_and_can_be_dropped() -> None:
    texts = {f"q{at}": f"{chr(97 + at) * 3}{chr(98 + at)}{chr(99 + at)}x{at}" for at in range(20)}
    made = split_labels(LABELS, SplitShares(dev=0.1, test=0.1), texts=texts)
    held, lost = made["dev"][0].qid, made["train"][0].qid
    texts[made["train"][1].qid] = f"{texts[held]} x"
    elsewhere = {"their queries": {held: texts[lost].upper()}}
    found = find_split_leaks(made, texts, against=elsewhere, threshold=0.6)
    assert {(leak.train, leak.where, leak.exact) for leak in found} == {
        (made["train"][1].qid, "dev", False),
        (lost, "their queries", True),
    }
    kept = remove_leaking_lists(made["train"], found)
    assert [one.qid for one in kept] == [one.qid for one in made["train"][2:]]


def test_many_queries_are_compared_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rerank.finetune.labels.splits._STEP", 3)
    queries = {f"{at}": f"word{at} thing{at * 7}" for at in range(10)}
    assert {(leak.train, leak.test) for leak in find_query_leaks(queries, {"": queries}, threshold=1)} == {
        (at, at) for at in queries
    }
