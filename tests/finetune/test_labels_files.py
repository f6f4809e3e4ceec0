"""Label files: what is read, what is refused and where, what a list guarantees."""

from __future__ import annotations

import gzip
import io
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rerank.collections import open_collection
from rerank.collections.jsonl import Jsonl
from rerank.errors import DataError, MissingResourceError, UsageError
from rerank.finetune.labels.files import (
    passages_of_prompt,
    read_conversations,
    read_flag_embedding,
    read_label_lists_of_file,
    read_labels,
    write_labels,
)
from rerank.finetune.labels.lists import (
    LabelList,
    TrainingList,
    attach_label_texts,
    document_lengths,
    query_texts,
    write_folder,
)
from rerank.io.json_records import JsonRecord
from rerank.types import Document, Query
from tests.raising import raises

ABC = LabelList(qid="q", initial=("a", "b", "c"), final=("c", "a", "b"), scores=(0.5, 0.1, 0.9), teacher="t", query="?")


def test_a_list_knows_its_order_and_its_agreement() -> None:
    assert ABC.order == (2, 0, 1)
    assert ABC.tau == pytest.approx(-1 / 3)  # of the pairs ab, ac, bc only ab keeps its order
    assert LabelList(qid="q", initial=("a", "b"), final=("a", "b")).tau == 1
    assert LabelList(qid="q", initial=("a",), final=("a",)).tau is None


def test_taking_documents_keeps_the_label_and_the_scores() -> None:
    taken = ABC.take([2, 1])
    assert (taken.initial, taken.final, taken.scores) == (("c", "b"), ("c", "b"), (0.9, 0.1))
    assert (taken.qid, taken.query, taken.teacher) == ("q", "?", "t")


@given(st.permutations(range(6)), st.permutations(range(6)), st.data())
def test_any_choice_of_documents_is_a_list_in_the_labels_order(
    shown: list[int], best: list[int], data: st.DataObject
) -> None:
    whole = LabelList(qid="q", initial=tuple(f"d{n}" for n in shown), final=tuple(f"d{n}" for n in best))
    positions = data.draw(st.lists(st.sampled_from(range(6)), min_size=1, unique=True))
    taken = whole.take(positions)
    assert taken.initial == tuple(whole.initial[at] for at in positions)
    assert list(taken.final) == sorted(taken.final, key=whole.final.index)


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    other = LabelList(qid="7", initial=("x",), final=("x",))
    for name in ("labels.jsonl", "labels.jsonl.gz"):
        assert write_labels([ABC, other], tmp_path / name) == 2
        assert list(read_labels(tmp_path / name)) == [ABC, other]
    assert json.loads((tmp_path / "labels.jsonl").read_text("utf-8").splitlines()[1]) == {
        "qid": "7",
        "initial_list": ["x"],
        "final_list": ["x"],
    }


def test_a_stream_is_written_to() -> None:
    stream = io.StringIO()
    write_labels([ABC], stream)
    assert json.loads(stream.getvalue())["scores"] == [0.5, 0.1, 0.9]


def test_fullranks_form_is_read_with_numbers_for_ids(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(b'\n{"qid": 3, "initial_list": [10, "11"], "final_list": ["11", "10"], "a": 1}\n'))
    (one,) = read_labels(path)
    assert (one.qid, one.initial, one.final) == ("3", ("10", "11"), ("11", "10"))
    assert one.where == f"{path}:2"


GOOD = '{"qid": "1", "initial_list": ["a"], "final_list": ["a"]}'
WRONG = [
    ('{"qid": "1", "initial_list": ["a"], "final_list": ["b"]}', "1 documents in its final_list"),
    ('{"qid": "1", "initial_list": ["a", "a"], "final_list": ["a"]}', "document 'a' twice in its initial_list"),
    ('{"qid": "1", "initial_list": ["a", "b"], "final_list": ["b", "b"]}', "document 'b' twice in its final_list"),
    ('{"qid": "1", "initial_list": [], "final_list": []}', "initial_list"),
    ('{"qid": "1", "initial_list": ["a", "b"], "final_list": ["b"]}', "1 of its 2 documents in its final_list"),
    ('{"qid": "1", "initial_list": ["a"]}', "final_list"),
    ('{"qid": "1", "initial_list": "a", "final_list": ["a"]}', "initial_list is 'a'"),
    ('{"qid": "1", "initial_list": [["a"]], "final_list": ["a"]}', "['a']"),
    ('{"initial_list": ["a"], "final_list": ["a"]}', "initial_list, final_list"),
    ('{"qid": "1", "initial_list": ["a"], "final_list": ["a"], "scores": [1, 2]}', "2 scores for 1 documents"),
    ('{"qid": "1", "initial_list": ["a"], "final_list": ["a"], "scores": ["x"]}', "['x']"),
    ('{"qid": "1", "initial_list": ["a"], "final_list": ["a"], "scores": [Infinity]}', "finite"),
    ('{"qid": "1", "initial_list": ["a"], "final_list": ["a"], "teacher": 3}', "3"),
    ("[1]", "JSON object"),
    ("nothing", "JSON"),
]


@pytest.mark.parametrize(("line", "message"), WRONG)
def test_a_wrong_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "labels.jsonl"
    path.write_text(f"{GOOD}\n{line}\n", "utf-8")
    found = read_labels(path)
    assert next(found).qid == "1"
    with pytest.raises(DataError) as caught:
        next(found)
    assert message in str(caught.value)
    assert f"{path}:2" in str(caught.value)


def test_files_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").touch()
    with raises(DataError, "empty.jsonl"):
        list(read_labels(tmp_path / "empty.jsonl"))
    with raises(MissingResourceError, tmp_path):
        list(read_labels(tmp_path / "none.jsonl"))
    with raises(MissingResourceError, tmp_path):
        write_labels([ABC], tmp_path / "no" / "labels.jsonl")


@pytest.mark.shared
def test_real_labels_of_gpt4o(shared: Path) -> None:
    path = shared / "data/rankgpt_teacher/msmarco_gpt-4o_bm25top100_9passes.jsonl.gz"
    lists = list(read_labels(path))
    assert (len(lists), {len(one) for one in lists}) == (1000, {100})
    taus = [one.tau for one in lists if one.tau is not None]
    assert sum(taus[:300]) / 300 == pytest.approx(0.3576, abs=5e-5)
    assert sum(taus) / 1000 == pytest.approx(0.3555, abs=5e-5)


PASSAGES = ["Fleas live for months.", "Bees make honey.", "A flea is small."]


def flag(*rows: dict[str, Any], **more: Any) -> tuple[list[TrainingList], Counter[str]]:
    skipped: Counter[str] = Counter()
    records = (JsonRecord(f"f:{at}", row) for at, row in enumerate(rows, 1))
    return list(read_flag_embedding(records, skipped=skipped, **more)), skipped


def texts(one: TrainingList) -> list[str]:
    return [one.docs[at].text for at in one.order]


def test_positives_come_first_in_the_label_but_not_in_the_list() -> None:
    row = {"query": "how old do fleas get", "pos": ["p1", "p2"], "neg": [f"n{at}" for at in range(9)]}
    (one,), _ = flag(row)
    assert texts(one) == ["p1", "p2", *(f"n{at}" for at in range(9))]
    assert sorted(doc.text for doc in one.docs) == sorted(texts(one))
    assert one.order != tuple(range(11))
    assert {doc.text: score for doc, score in zip(one.docs, one.scores, strict=True)}["p2"] == 1
    shown = [[doc.text for doc in flag(row, seed=seed)[0][0].docs] for seed in (0, 0, 1)]
    assert shown[0] == shown[1] != shown[2]


def test_scores_make_the_label_where_there_are_some() -> None:
    row = {"query": "q", "pos": ["p"], "neg": ["n1", "n2"], "pos_scores": [0.5], "neg_scores": [0.1, 0.7]}
    (one,), _ = flag(row)
    assert texts(one) == ["n2", "p", "n1"]
    assert [one.scores[at] for at in one.order] == [0.7, 0.5, 0.1]
    (one,), _ = flag(row, use_scores=False)
    assert texts(one) == ["p", "n1", "n2"]


def test_equal_texts_are_one_document_and_counted() -> None:
    lists, skipped = flag(
        {"query": "q", "pos": ["p"], "neg": ["p", "n", "n"]},
        {"query": "q2", "pos": ["p"], "neg": ["p"]},
        {"query": "q3", "pos": ["p"]},
        {"query": "q4", "pos": ["x"], "neg": ["p"], "id": "own"},
    )
    assert [texts(one) for one in lists] == [["p", "n"], ["x", "p"]]
    assert [one.query.id for one in lists] == ["1", "own"]
    assert skipped == {"texts that were there twice": 3, "lists without a negative": 2}
    assert {doc.id for doc in lists[0].docs if doc.text == "p"} == {d.id for d in lists[1].docs if d.text == "p"}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"pos": ["p"], "neg": ["n"]}, "f:1: the value is None"),
        ({"query": " ", "pos": ["p"], "neg": ["n"]}, "f:1: the query"),
        ({"query": "q", "pos": [], "neg": ["n"]}, "f:1: pos is"),
        ({"query": "q", "pos": ["p"], "neg": "n"}, "f:1: neg is 'n'"),
        ({"query": "q", "pos": ["p"], "neg": [3]}, "f:1: the value is 3"),
        ({"query": "q", "pos": ["p"], "neg": ["n"], "pos_scores": [1]}, "1 pos_scores and 0 neg_scores"),
    ],
)
def test_other_shapes_are_refused(row: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError) as caught:
        flag(row)
    assert message in str(caught.value)


def human(passages: list[str] = PASSAGES, query: str = "how old do fleas get?") -> str:
    shown = "\n".join(f"[{at}] {passage}" for at, passage in enumerate(passages, 1))
    return (
        f"I will provide you with {len(passages)} passages, each indicated by a numerical identifier []. Rank the "
        f"passages based on their relevance to the search query: {query}.\n\n{shown}\n\nSearch Query: {query}.\n"
        f"Rank the {len(passages)} passages above. The output format should be [] > [], e.g., [4] > [2]."
    )


def talk(*turns: tuple[str, str], **more: Any) -> dict[str, Any]:
    spoken = [{"from": who, "value": said} for who, said in turns]
    return {"conversations": [{"from": "system", "value": "You rank passages, e.g. [1] > [2]"}, *spoken], **more}


def conversations(*rows: dict[str, Any]) -> tuple[list[TrainingList], Counter[str]]:
    skipped: Counter[str] = Counter()
    return list(
        read_conversations((JsonRecord(f"f:{n}", row) for n, row in enumerate(rows, 1)), skipped=skipped)
    ), skipped


def test_a_conversation_is_a_list() -> None:
    (one,), skipped = conversations(talk(("human", human()), ("gpt", "[3] > [1] > [2]"), id="z-1"))
    assert (one.query.id, one.query.text) == ("z-1", "how old do fleas get?")
    assert [doc.text for doc in one.docs] == PASSAGES
    assert one.order == (2, 0, 1)
    assert not skipped


def test_chats_of_many_turns_and_of_roles_are_read_too() -> None:
    turns = [{"role": "user", "content": "I will provide you with 3 passages on the search query: fleas."}]
    for at, passage in enumerate(PASSAGES, 1):
        turns += [{"role": "assistant", "content": f"Received passage [{at}]."}]
        turns += [{"role": "user", "content": f"[{at}] {passage}"}]
    turns += [{"role": "user", "content": "Search Query: fleas.\nRank the 3 passages above."}]
    (one,), _ = conversations({"messages": [*turns, {"role": "assistant", "content": "[2] > [3] > [1]"}]})
    assert ([doc.text for doc in one.docs], one.order, one.query.text) == (PASSAGES, (1, 2, 0), "fleas")


def test_replies_that_order_not_everything_are_left_out_and_counted() -> None:
    lists, skipped = conversations(
        talk(("human", human()), ("gpt", "[3] > [1]")),
        talk(("human", human()), ("gpt", "I am sorry, I cannot rank these.")),
        talk(("human", human(["same", "same", "x"])), ("gpt", "[3] > [1] > [2]")),
        talk(("human", human()), ("gpt", "Sure: [3] > [1] > [1] > [2]")),
    )
    assert [one.order for one in lists] == [(2, 0, 1)]
    assert skipped == {
        "lists whose reply is partial": 1,
        "lists whose reply is refused": 1,
        "lists with a passage twice": 1,
    }


def test_passages_may_hold_numbers_lines_and_queries() -> None:
    shown = ["one\n\n[7] not the second", "Query: what a query is\nand more", "Rank the 3 passages is a phrase"]
    (one,), _ = conversations(talk(("human", human(shown)), ("gpt", "[1] > [2] > [3]")))
    assert [doc.text for doc in one.docs] == shown
    assert passages_of_prompt("no passages") == []


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"conversations": "x"}, "f:1: the turns are 'x'"),
        ({"conversations": []}, "None"),
        (talk(("gpt", "[1]"), ("human", human())), "'human'"),
        (talk(("human", "Rank them.\nSearch Query: q."), ("gpt", "[1]")), "[1]"),
        (talk(("human", human().replace("with 3", "with 4")), ("gpt", "[1]")), "3 numbered passages"),
        (talk(("human", "[1] a\n[2] b"), ("gpt", "[1] > [2]")), "Search Query"),
    ],
)
def test_other_conversations_are_refused(row: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError) as caught:
        conversations(row)
    assert message in str(caught.value)


def test_the_form_is_told_from_the_first_object(tmp_path: Path) -> None:
    path = tmp_path / "lists"
    path.write_text(json.dumps({"query": "q", "pos": ["p"], "neg": ["n"]}), "utf-8")
    assert texts(next(read_label_lists_of_file(path))) == ["p", "n"]
    path.write_text(json.dumps({"query": "q", "pos": ["p"], "neg": ["n", "n"]}), "utf-8")
    with pytest.warns(UserWarning, match="1 texts that were there twice"):  # nobody counts them
        list(read_label_lists_of_file(path))
    path.write_text(json.dumps([talk(("human", human()), ("gpt", "[3] > [1] > [2]"))] * 2, indent=1), "utf-8")
    assert [one.query.id for one in read_label_lists_of_file(path)] == ["1", "2"]
    path.write_text('{"qid": "1", "initial_list": ["a"], "final_list": ["a"]}', "utf-8")
    with raises(UsageError, "--collection"):
        read_label_lists_of_file(path)
    (tmp_path / "docs.jsonl").write_text('{"id": "a", "text": "x"}', "utf-8")
    (tmp_path / "queries.jsonl").write_text('{"id": "1", "text": "what"}', "utf-8")
    assert texts(next(read_label_lists_of_file(path, Jsonl(str(tmp_path))))) == ["x"]
    for content, message in (('{"a": 1}', "the keys a"), ("[]", "an empty list"), ("[3]", "entry 1 is 3")):
        path.write_text(content, "utf-8")
        with pytest.raises(DataError, match=message):
            list(read_label_lists_of_file(path))


LABEL = LabelList(qid="q1", initial=("a", "b"), final=("b", "a"), where="labels:4")


@pytest.fixture
def folder(tmp_path: Path) -> str:
    docs = [{"id": "a", "text": "one two"}, {"id": "b", "text": "three", "title": "T"}, {"id": "c", "text": "x"}]
    (tmp_path / "docs.jsonl").write_text("\n".join(map(json.dumps, docs)), "utf-8")
    (tmp_path / "queries.jsonl").write_text('{"id": "q1", "text": "what"}', "utf-8")
    return f"jsonl:{tmp_path}"


def test_texts_are_looked_up(folder: str) -> None:
    collection = open_collection(folder)
    (one,) = attach_label_texts([LABEL], collection)
    assert one.query == Query(id="q1", text="what")
    assert [doc.full_text for doc in one.docs] == ["one two", "T\nthree"]
    assert one.ranks == (2, 1)
    (own,) = attach_label_texts([replace(LABEL, query="my words")], collection)
    assert own.query.text == "my words"
    assert own.to_label() == replace(LABEL, query="my words")
    assert document_lengths([LABEL], collection) == {"a": 2, "b": 2}


def test_of_a_query_with_several_lists_the_first_text_counts(folder: str) -> None:
    labels = [
        replace(LABEL, qid=qid, query=text) for qid, text in (("q1", "mine"), ("q1", ""), ("q2", ""), ("q2", "w"))
    ]
    assert query_texts([*labels, LABEL]) == {"q1": "mine", "q2": "w"}
    assert query_texts([LABEL, labels[0]], open_collection(folder)) == {"q1": "mine"}
    assert query_texts([LABEL, labels[2]], open_collection(folder)) == {"q1": "what"}


def test_a_collection_that_finds_by_id_is_asked_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rerank.finetune.labels.lists._BATCH", 2)
    collection = open_collection("pydoc")
    ids = [doc.id for doc in collection.docs()][:10]
    labels = [LabelList(qid="q01", initial=tuple(ids[at : at + 2]), final=tuple(ids[at : at + 2])) for at in range(5)]
    found = list(attach_label_texts(labels, collection))
    assert [tuple(doc.id for doc in one.docs) for one in found] == [one.initial for one in labels]


def test_what_the_collection_lacks_is_named_with_its_line(folder: str) -> None:
    collection = open_collection(folder)
    with raises(DataError, "labels:4:", "query 'q1'", "1 documents", "'z'"):
        list(attach_label_texts([replace(LABEL, initial=("a", "z"), final=("z", "a"))], collection))
    with raises(DataError, "labels:4:", "query 'q9'"):
        list(attach_label_texts([replace(LABEL, qid="q9")], collection))


def test_texts_of_queries(folder: str) -> None:
    labels = [LABEL, replace(LABEL, qid="q2", query="else"), replace(LABEL, qid="q3")]
    assert query_texts(labels) == {"q2": "else"}
    assert query_texts(labels, open_collection(folder)) == {"q1": "what", "q2": "else"}


def test_lists_become_a_collection_of_their_own(tmp_path: Path, folder: str) -> None:
    lists = list(attach_label_texts([LABEL, replace(LABEL, final=("a", "b"))], open_collection(folder)))
    target = tmp_path / "made"
    written = write_folder(lists, target)
    assert (written["lists"], written["queries"], written["documents"]) == (2, 1, 2)
    again = list(attach_label_texts(read_labels(target / "labels.jsonl"), open_collection(f"jsonl:{target}")))
    assert again == lists
    assert write_folder(lists[:1], target)["lists"] == 1  # its own folder is written anew


def test_a_strange_folder_is_left_alone(tmp_path: Path, folder: str) -> None:
    before = (tmp_path / "docs.jsonl").read_bytes()
    with raises(UsageError, tmp_path, "--output"):
        write_folder([], tmp_path)
    assert (tmp_path / "docs.jsonl").read_bytes() == before


def test_two_texts_for_one_id_are_refused(tmp_path: Path) -> None:
    docs = (Document(id="a", text="x"), Document(id="b", text="y"))
    one = TrainingList(query=Query(id="q", text="w"), docs=docs, order=(0, 1))
    other = replace(one, docs=(Document(id="a", text="X"), docs[1]))
    with raises(DataError, "document 'a'"):
        write_folder([one, other], tmp_path / "made")
    with raises(DataError, "query 'q'"):
        write_folder([one, replace(one, query=Query(id="q", text="v"))], tmp_path / "made")
