"""Collections of JSON lines, BEIR folders and folders of pictures."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from rerank.collections import open_collection
from rerank.collections.base import Collection
from rerank.collections.jsonl import Beir, Jsonl
from rerank.errors import DataError, MissingResourceError, UnknownNameError, UsageError
from rerank.io.run_files import read_qrels
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


BEIR = Path(__file__).resolve().parents[2] / "data" / "beir"


@pytest.fixture
def beir(tmp_path: Path) -> Path:
    return Path(shutil.copytree(BEIR, tmp_path / "beir"))


def test_records() -> None:
    collection = Beir(str(BEIR))
    docs = list(collection.docs())
    assert docs[2] == Document(
        id="chain", text="A bicycle chain wants oil on the inside of its links; wipe off what stays on the outside."
    )
    assert docs[3].title == "Moss in the lawn"
    assert collection.qrels()["q-stale"] == {"bread": 2, "moss": 0}


def test_queries_are_those_of_the_split() -> None:
    assert [query.id for query in Beir(str(BEIR)).queries()] == ["q-lime", "q-stale"]
    assert Beir(str(BEIR), split="dev").queries() == [Query(id="q-oil", text="oil a bicycle chain")]


def test_without_judgments_all_queries_stay(beir: Path) -> None:
    shutil.rmtree(beir / "qrels")
    collection = Beir(str(beir))
    assert len(collection.queries()) == 4
    assert not collection.qrels()


def test_dropping_the_query_itself_is_on_and_can_be_turned_off() -> None:
    assert Beir(str(BEIR)).drop_self is True
    assert Beir(str(BEIR), drop_self=False).drop_self is False


def test_an_unknown_split_names_those_that_exist() -> None:
    with raises(UnknownNameError, "'tset'", "'test'"):
        Beir(str(BEIR), split="tset")


def test_a_judged_query_that_is_not_there(beir: Path) -> None:
    with (beir / "qrels" / "dev.tsv").open("a") as file:
        file.write("q-gone\tchain\t1\n")
    with raises(DataError, "1", "2", "queries.jsonl", "'q-gone'"):
        Beir(str(beir), split="dev").queries()


def test_missing_queries(beir: Path) -> None:
    (beir / "queries.jsonl").unlink()
    with raises(MissingResourceError, "queries.jsonl"):
        Beir(str(beir))


def test_the_split_is_part_of_the_fingerprint() -> None:
    assert Beir(str(BEIR)).fingerprint != Beir(str(BEIR), split="dev").fingerprint


def test_docs_are_streamed(beir: Path) -> None:
    with (beir / "corpus.jsonl").open("a") as file:
        file.write("broken\n")
    docs = Beir(str(beir)).docs()
    assert next(docs).id == "kettle"
    with raises(DataError, "corpus.jsonl:6"):
        list(docs)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "my photos"
    for name in ("b.JPG", "a b.png", "in/50%.webp", "in/c\td.gif", ".hidden.png", ".trash/e.png", "notes.txt"):
        path = made / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return made


def test_files_are_documents_by_path(folder: Path) -> None:
    collection = open_collection(f"pictures:{folder}")
    assert isinstance(collection, Collection)
    docs = list(collection.docs())
    assert [doc.id for doc in docs] == ["a%20b.png", "b.JPG", "in/50%25.webp", "in/c%09d.gif"]
    assert docs[0] == Document(id="a%20b.png", image=str(folder / "a b.png"))
    assert (collection.name, collection.queries(), dict(collection.qrels())) == ("my_photos", [], {})


def test_queries_and_judgments(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "q.jsonl").write_text(json.dumps({"id": 1, "text": "a bird"}) + "\n")
    (tmp_path / "qrels.txt").write_text("1 0 b.JPG 2\n")
    collection = open_collection(f"pictures:{folder},queries={tmp_path / 'q.jsonl'},qrels={tmp_path / 'qrels.txt'}")
    assert collection.queries() == [Query(id="1", text="a bird")]
    assert dict(collection.qrels()) == dict(read_qrels(tmp_path / "qrels.txt"))


def test_the_fingerprint_follows_place_names_and_bytes(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = open_collection(f"pictures:{folder}").fingerprint
    moved = folder.rename(tmp_path / "elsewhere")
    first = open_collection(f"pictures:{moved}").fingerprint
    assert first != before
    (moved / "notes.txt").write_text("other")
    monkeypatch.chdir(moved)
    assert open_collection("pictures:../elsewhere").fingerprint == first
    assert next(open_collection("pictures:.").docs()).image == str(moved / "a b.png")
    (moved / "b.JPG").write_bytes(b"other")
    changed = open_collection(f"pictures:{moved}").fingerprint
    (moved / "b.JPG").rename(moved / "c.JPG")
    assert len({first, changed, open_collection(f"pictures:{moved}").fingerprint}) == 3


def test_wrong_folders(tmp_path: Path) -> None:
    with pytest.raises(DataError):
        list(open_collection(f"pictures:{tmp_path}").docs())
    with pytest.raises(MissingResourceError):
        open_collection(f"pictures:{tmp_path / 'none'}")
    with pytest.raises(MissingResourceError):
        open_collection(f"pictures:{tmp_path},queries={tmp_path / 'none'}")


@pytest.mark.parametrize("gone", [{"image": "a.png"}, {"image": "a.png", "text": "words"}])
def test_json_lines_may_name_pictures(tmp_path: Path, gone: dict[str, Any]) -> None:
    (tmp_path / "docs.jsonl").write_text(json.dumps({"id": "x", **gone}) + "\n")
    found = list(open_collection(f"jsonl:{tmp_path}").docs())
    assert found == [Document(id="x", text=gone.get("text", ""), image=str(tmp_path / "a.png"))]


def test_candidates_keep_their_pictures(tmp_path: Path) -> None:
    from rerank.io.rerank_requests import format_request_row
    from rerank.types import Ranking, Run

    given = Run(
        [Ranking.from_order(Query(id="q", text="t"), [Document(id="x", image="a.png"), Document(id="y", text="w")])]
    )
    (tmp_path / "r.jsonl").write_text(
        "".join(json.dumps(format_request_row(row, row)) + "\n" for row in given.values())
    )
    collection: Any = open_collection(f"requests:{tmp_path / 'r.jsonl'}")
    assert collection.candidates()["q"].docs == given["q"].docs
