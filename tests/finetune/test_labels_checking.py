"""Splits by query, leaks of test queries, and the probe of superficial features."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import mannwhitneyu

from rerank.collections import open_collection
from rerank.errors import DataError, UsageError
from rerank.finetune.labels.checking import (
    FEW,
    FIRST_WORDS,
    LENGTH,
    FeatureSeparation,
    ProbeReport,
    best_and_worst,
    check_labels,
    label_statistics,
    probe_form,
    separation_auc,
)
from rerank.finetune.labels.lists import LabelList, TrainingList
from rerank.finetune.labels.queries import extract_title
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
from rerank.retrieval import open_first_stage
from rerank.types import Document, Query
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


TOPICS = [f"topic{at}" for at in range(30)]
STARTS = ["the", "a", "in", "we", "this", "results", "for", "an"]


Show = Callable[[Document, bool], Document]


def lists(count: int, show: Show, *, docs: int = 12, seed: int = 0) -> list[TrainingList]:
    """Lists with one right document each; ``show`` makes each document's text, told whether it is the right one."""
    chance = random.Random(seed)
    made = []
    for at in range(count):
        found = []
        for number in range(docs):
            words = [chance.choice(STARTS), *(chance.choice(TOPICS) for _ in range(chance.randint(20, 60)))]
            title = f"{chance.choice(TOPICS).title()} and {chance.choice(TOPICS)} under {chance.choice(TOPICS)}"
            doc = Document(id=f"{at}-{number}", title=title, text=" ".join(words))
            found.append(show(doc, number == 0))
        scores = (1.0, *[0.0] * (docs - 1))
        query = Query(id=f"q{at}", text=f"{found[0].title} {at}")
        made.append(TrainingList(query=query, docs=tuple(found), order=tuple(range(docs)), scores=scores))
    return made


def whole(doc: Document) -> Document:
    """Title and body in one text, as most training files have it."""
    return replace(doc, title="", text=f"{doc.title}. {doc.text}")


def told(found: ProbeReport) -> dict[str, FeatureSeparation]:
    return {one.feature: one for one in found.features}


def test_titles_that_only_the_right_documents_lack_are_flagged() -> None:
    cut = lists(60, lambda doc, right: replace(doc, title="") if right else whole(doc))
    found = probe_form(cut)
    assert found.warns
    assert told(found)[FIRST_WORDS].auc > 0.95
    assert any("first words" in note for note in found.notes)
    fields = probe_form(lists(60, lambda doc, right: replace(doc, title="") if right else doc))
    assert told(fields)[FIRST_WORDS].auc == 1


@pytest.mark.parametrize("seed", range(3))
def test_titles_that_all_documents_have_or_lack_are_not(seed: int) -> None:
    for show in (lambda doc, right: whole(doc), lambda doc, right: replace(doc, title=""), lambda doc, right: doc):
        found = probe_form(lists(60, show, seed=seed))
        assert (found.warns, found.notes) == (False, ())


def test_texts_that_were_cut_are_flagged_by_their_length() -> None:
    short = lists(40, lambda doc, right: replace(doc, text=" ".join(doc.text.split()[:12])) if right else doc)
    found = probe_form(short)
    length = told(found)[LENGTH]
    assert length.warns
    assert length.high < 0.5
    assert any("the best documents have" in note for note in found.notes)
    assert told(probe_form([replace(one, scores=tuple(1 - s for s in one.scores)) for one in short]))[LENGTH].low > 0.5


@pytest.mark.parametrize("seed", range(5))
def test_it_is_silent_where_labels_are_drawn_by_chance(seed: int) -> None:
    """The very lists that are flagged above, with an order that has nothing to do with them."""
    chance = random.Random(seed)
    cut = lists(80, lambda doc, right: replace(doc, title="") if right else whole(doc))
    shuffled = [replace(one, order=tuple(chance.sample(range(12), 12)), scores=()) for one in cut]
    assert not probe_form(shuffled).warns


def test_a_document_that_is_often_the_best_is_no_matter_of_form() -> None:
    """Ten right documents for sixty queries: their own first words would be a perfect feature."""
    made = lists(60, lambda doc, right: doc)
    hubs = [one.docs[0] for one in made[:10]]
    same = [replace(one, docs=(hubs[at % 10], *one.docs[1:])) for at, one in enumerate(made)]
    assert told(probe_form(same))[FIRST_WORDS].auc < 0.65
    twins = [replace(one, docs=(replace(one.docs[0], id=f"twin{at}"), *one.docs[1:])) for at, one in enumerate(same)]
    separated = told(probe_form(twins))[FIRST_WORDS]
    assert separated.auc > 0.8  # as it would be if each were known by its words


def test_several_lists_of_a_query_count_as_one() -> None:
    made = lists(40, lambda doc, right: doc)
    copies = [one for one in made for _ in range(5)]
    once, often = told(probe_form(made)), told(probe_form(copies))
    for a, b in ((once[name], often[name]) for name in (LENGTH, FIRST_WORDS)):
        assert (b.auc, b.low, b.high) == pytest.approx((a.auc, a.low, a.high))
    assert probe_form(copies).queries == 40


def test_the_ends_of_a_list() -> None:
    docs = tuple(Document(id=f"{at}") for at in range(9))
    one = TrainingList(query=Query(id="q"), docs=docs, order=(8, 7, 6, 5, 4, 3, 2, 1, 0))
    assert best_and_worst(one) == ((8, 7), (1, 0))
    graded = replace(one, scores=(3.0, 0.0, 1.0, 3.0, 0.0, 1.0, 1.0, 1.0, 2.0))
    assert best_and_worst(graded) == ((0, 3), (1, 4))
    assert best_and_worst(replace(one, scores=tuple(map(float, range(9))))) == ((8, 7), (1, 0))
    assert best_and_worst(replace(one, scores=(1.0,) * 9)) == ((), ())
    assert best_and_worst(TrainingList(query=Query(id="q"), docs=docs[:1], order=(0,))) == ((), ())


@given(st.lists(st.integers(0, 5), min_size=1, max_size=8), st.lists(st.integers(0, 5), min_size=1, max_size=8))
def test_auc_is_mann_whitneys(best: list[int], worst: list[int]) -> None:
    expected = mannwhitneyu(best, worst, method="asymptotic").statistic / (len(best) * len(worst))
    assert separation_auc(best, worst) == pytest.approx(expected)


def test_intervals_hold_their_mean_and_depend_on_the_seed_alone() -> None:
    made = lists(50, lambda doc, right: doc)
    for one in probe_form(made).features:
        assert one.low <= one.auc <= one.high
    assert probe_form(made) == probe_form(made)
    assert probe_form(made, seed=1) != probe_form(made)


def test_few_lists_are_said_to_be_few_and_none_to_be_none() -> None:
    few = probe_form(lists(FEW - 1, lambda doc, right: doc))
    assert any(str(FEW - 1) in note for note in few.notes)
    none = probe_form([replace(one, scores=(1.0,) * 12) for one in lists(3, lambda doc, right: doc)])
    assert (none.lists, none.features, none.warns) == (0, (), False)
    assert len(none.notes) == 1


def test_texts_without_words() -> None:
    blank = [
        replace(one, docs=tuple(replace(d, title="", text="") for d in one.docs)) for one in lists(30, lambda d, r: d)
    ]
    assert [one.auc for one in probe_form(blank).features] == [0.5, 0.5]


def test_statistics_by_hand() -> None:
    labels = [
        LabelList(qid="1", initial=("a", "b"), final=("a", "b"), teacher="t", scores=(2.0, 1.0)),
        LabelList(qid="1", initial=("a", "b"), final=("a", "b")),
        LabelList(qid="2", initial=("a", "c", "d"), final=("d", "c", "a"), query="w", teacher="t"),
    ]
    found = label_statistics(labels)
    assert found == {
        "lists": 3,
        "queries": 2,
        "documents": 4,
        "docs_per_list": {"min": 2, "mean": 7 / 3, "max": 3},
        "tau": pytest.approx(1 / 3),
        "unchanged": 2,
        "with_scores": 1,
        "with_query": 1,
        "repeated": 1,
        "teachers": {"t": 2},
    }
    report = check_labels(labels, None, texts={"2": "one two"}, against={"theirs": {"x": "one, two!"}})
    assert (report["probe"], report["leaks"]) == (None, 1)
    assert report["leaking"][0]["where"] == "theirs"
    assert check_labels(labels, None, texts={}, against={})["leaks"] is None


@pytest.mark.shared
def test_title_queries_of_cranfield(shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The trial that the probe is made for: titles as queries, the title's own document against BM25's other ones."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    collection = open_collection(f"cranfield:{shared / 'data/cranfield'}")
    documents = [doc for doc in collection.docs() if doc.title and len(doc.text.split()) > 20]
    sources = random.Random(1).sample(documents, 400)
    run = open_first_stage("bm25", collection).search([Query(id=doc.id, text=doc.title) for doc in sources], 20)

    def made(show: Show) -> dict[str, FeatureSeparation]:
        found = []
        for doc in sources:
            others = [other for other in run[doc.id].docs if other.id != doc.id][:15]
            docs = (show(doc, True), *(show(other, False) for other in others))
            scores = (1.0, *[0.0] * len(others))
            query = Query(id=doc.id, text=doc.title)
            found.append(TrainingList(query=query, docs=docs, order=tuple(range(len(docs))), scores=scores))
        return told(probe_form(found))

    def cut(doc: Document, right: bool) -> Document:
        return extract_title(doc)[1]

    only_right = made(lambda doc, right: cut(doc, right) if right else whole(doc))
    assert only_right[FIRST_WORDS].auc == pytest.approx(0.82, abs=0.02)
    assert only_right[FIRST_WORDS].warns
    assert only_right[LENGTH].warns
    for others in (made(cut), made(lambda doc, right: whole(doc))):
        assert others[FIRST_WORDS].auc == pytest.approx(0.5, abs=0.03)
        assert not any(one.warns for one in others.values())
