"""Folders of pictures as collections; nothing is opened, so that any bytes will do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rerank.collections import open_collection
from rerank.collections.base import Collection
from rerank.errors import DataError, MissingResourceError
from rerank.io.run_files import read_qrels
from rerank.types import Document, Query


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
