"""Collections of JSON lines."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from rerank.collections.jsonl import Jsonl
from rerank.errors import MissingResourceError, UsageError
from rerank.types import Document, Query
from tests.raising import raises

SAMPLE = Path(__file__).resolve().parents[2] / "data" / "jsonl"


def test_a_folder() -> None:
    collection = Jsonl(str(SAMPLE), language="zh")
    assert list(collection.docs())[2:] == [
        Document(id="d3", title="柿子", text="柿子熟透以后很软，味道很甜。"),
        Document(id="4", text="Medlars are eaten after the first frost."),
    ]
    assert collection.queries()[1] == Query(id="2", text="柿子什么时候好吃")
    assert {query: dict(judged) for query, judged in collection.qrels().items()} == {
        "q1": {"d1": 1},
        "2": {"d3": 2},
        "q3": {"4": 1},
    }


def test_named_files_replace_those_of_the_folder(tmp_path: Path) -> None:
    other = tmp_path / "others.jsonl"
    other.write_text('{"id": "x", "text": "another question"}\n')
    collection = Jsonl(str(SAMPLE), queries=str(other))
    assert collection.queries() == [Query(id="x", text="another question")]
    assert len(list(collection.docs())) == 4


def test_a_file_is_the_documents() -> None:
    collection = Jsonl(str(SAMPLE / "docs.jsonl"), qrels=str(SAMPLE / "qrels.txt"))
    assert (collection.name, len(list(collection.docs())), collection.queries()) == ("docs", 4, [])
    assert len(collection.qrels()) == 3


def test_single_files_without_a_folder() -> None:
    collection = Jsonl(docs=str(SAMPLE / "docs.jsonl"), queries=str(SAMPLE / "queries.jsonl"))
    assert len(list(collection.docs())) == 4
    assert len(collection.queries()) == 3
    assert not collection.qrels()


@pytest.mark.parametrize("name", ["qrels.tsv", "qrels.txt", "qrels.trec"])
def test_names_of_the_judgments(tmp_path: Path, name: str) -> None:
    shutil.copy(SAMPLE / "docs.jsonl", tmp_path / "corpus.jsonl")
    shutil.copy(SAMPLE / "qrels.txt", tmp_path / name)
    collection = Jsonl(str(tmp_path))
    assert len(collection.qrels()) == 3
    assert len(list(collection.docs())) == 4


def test_a_folder_that_lacks_both_is_enough_where_the_files_are_named(tmp_path: Path) -> None:
    shutil.copy(SAMPLE / "qrels.txt", tmp_path / "qrels.txt")
    with pytest.raises(MissingResourceError):
        Jsonl(str(tmp_path))
    collection = Jsonl(str(tmp_path), docs=str(SAMPLE / "docs.jsonl"))
    assert len(collection.qrels()) == 3


def test_nothing_named() -> None:
    with raises(UsageError, "jsonl:FOLDER"):
        Jsonl()


def test_documents_named_twice() -> None:
    with pytest.raises(UsageError):
        Jsonl(str(SAMPLE / "docs.jsonl"), docs=str(SAMPLE / "docs.jsonl"))


def test_a_named_file_that_is_not_there() -> None:
    with raises(MissingResourceError, "nowhere.jsonl"):
        Jsonl(str(SAMPLE), queries="nowhere.jsonl")
