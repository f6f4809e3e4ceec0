"""Ids with their texts, and folders of lists that are collections of their own."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from rerank.collections import open_collection
from rerank.errors import DataError, UsageError
from rerank.finetune.labels.files import read_labels
from rerank.finetune.labels.lists import LabelList, TrainingList
from rerank.finetune.labels.texts import attach_label_texts, document_lengths, query_texts, write_folder
from rerank.types import Document, Query
from tests.raising import raises

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
    monkeypatch.setattr("rerank.finetune.labels.texts._BATCH", 2)
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
