"""Folders in BEIR's layout."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from rerank.collections.jsonl import Beir
from rerank.errors import DataError, MissingResourceError, UnknownNameError
from rerank.types import Document, Query
from tests.raising import raises

SAMPLE = Path(__file__).resolve().parents[2] / "data" / "beir"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(SAMPLE, tmp_path / "beir"))


def test_records() -> None:
    collection = Beir(str(SAMPLE))
    docs = list(collection.docs())
    assert docs[2] == Document(
        id="chain", text="A bicycle chain wants oil on the inside of its links; wipe off what stays on the outside."
    )
    assert docs[3].title == "Moss in the lawn"
    assert collection.qrels()["q-stale"] == {"bread": 2, "moss": 0}


def test_queries_are_those_of_the_split() -> None:
    assert [query.id for query in Beir(str(SAMPLE)).queries()] == ["q-lime", "q-stale"]
    assert Beir(str(SAMPLE), split="dev").queries() == [Query(id="q-oil", text="oil a bicycle chain")]


def test_without_judgments_all_queries_stay(folder: Path) -> None:
    shutil.rmtree(folder / "qrels")
    collection = Beir(str(folder))
    assert len(collection.queries()) == 4
    assert not collection.qrels()


def test_dropping_the_query_itself_is_on_and_can_be_turned_off() -> None:
    assert Beir(str(SAMPLE)).drop_self is True
    assert Beir(str(SAMPLE), drop_self=False).drop_self is False


def test_an_unknown_split_names_those_that_exist() -> None:
    with raises(UnknownNameError, "'tset'", "'test'"):
        Beir(str(SAMPLE), split="tset")


def test_a_judged_query_that_is_not_there(folder: Path) -> None:
    with (folder / "qrels" / "dev.tsv").open("a") as file:
        file.write("q-gone\tchain\t1\n")
    with raises(DataError, "1", "2", "queries.jsonl", "'q-gone'"):
        Beir(str(folder), split="dev").queries()


def test_missing_queries(folder: Path) -> None:
    (folder / "queries.jsonl").unlink()
    with raises(MissingResourceError, "queries.jsonl"):
        Beir(str(folder))


def test_the_split_is_part_of_the_fingerprint() -> None:
    assert Beir(str(SAMPLE)).fingerprint != Beir(str(SAMPLE), split="dev").fingerprint


def test_docs_are_streamed(folder: Path) -> None:
    with (folder / "corpus.jsonl").open("a") as file:
        file.write("broken\n")
    docs = Beir(str(folder)).docs()
    assert next(docs).id == "kettle"
    with raises(DataError, "corpus.jsonl:6"):
        list(docs)
