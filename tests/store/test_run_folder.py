"""The run folder: what may be begun where, and files that are whole or absent."""

from __future__ import annotations

from pathlib import Path

import pytest

from rerank.errors import DataError, MissingResourceError, StorageError, UsageError
from rerank.store import RunFolder, identity_hash
from rerank.types import Document, Qrels, Query, Ranking
from tests.raising import raises


def document(model: str = "m") -> dict[str, object]:
    identity = {"model": model, "seed": 0}
    return {"hash": identity_hash(identity), "identity": identity, "spec": {}}


def begin(folder: RunFolder, what: dict[str, object], *, resume: bool = False, overwrite: bool = False) -> None:
    with folder.begin(what, resume=resume, overwrite=overwrite):
        pass


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    made = RunFolder(tmp_path / "runs" / "one")
    begin(made, document())
    return made


def test_the_hash_depends_on_content_not_on_order() -> None:
    assert identity_hash({"a": 1, "b": 2}) == identity_hash({"b": 2, "a": 1})
    assert identity_hash({"a": 1}) != identity_hash({"a": 2})


def test_an_unfinished_folder_wants_a_word(folder: RunFolder) -> None:
    with raises(UsageError, "runs/one", "0", "--resume", "--overwrite"):
        begin(folder, document())
    begin(folder, document(), resume=True)


def test_another_run_is_named_by_what_differs(folder: RunFolder) -> None:
    with raises(UsageError, "model is m there and other here"):
        begin(folder, document("other"), resume=True)


def test_a_finished_folder_may_be_begun_again(folder: RunFolder) -> None:
    folder.write_json("summary.json", {"complete": True})
    assert folder.finished
    begin(folder, document())


def test_a_summary_with_open_calls_is_not_the_end(folder: RunFolder) -> None:
    folder.write_json("summary.json", {"complete": False})
    assert not folder.finished


def test_overwrite_throws_the_calls_away(folder: RunFolder) -> None:
    folder.write_json("summary.json", {"complete": True})
    with folder.calls():
        pass
    begin(folder, document("other"), overwrite=True)
    assert folder.spec() == document("other")
    assert not (folder.path / "calls.sqlite").exists()
    assert not folder.finished


def test_a_folder_of_something_else_is_never_touched(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    for overwrite in (False, True):
        with raises(UsageError, "--out"):
            begin(RunFolder(tmp_path), document(), overwrite=overwrite)
    assert (tmp_path / "thesis.tex").read_text() == "precious"


def test_two_processes_do_not_share_a_folder(folder: RunFolder) -> None:
    with folder.begin(document(), resume=True), raises(UsageError, "runs/one", "--out"):
        begin(RunFolder(folder.path), document(), resume=True)
    begin(RunFolder(folder.path), document(), resume=True)


def test_a_path_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with raises(StorageError, "Not a directory"):
        begin(RunFolder(tmp_path / "file" / "run"), document())


def test_existing(tmp_path: Path, folder: RunFolder) -> None:
    assert RunFolder.existing(folder.path).spec() == document()
    with raises(MissingResourceError, "spec.json"):
        RunFolder.existing(tmp_path / "nothing")


def test_json_that_is_missing_or_broken(folder: RunFolder) -> None:
    with raises(MissingResourceError, "--resume"):
        folder.read_json("summary.json")
    (folder.path / "summary.json").write_text("{")
    with raises(DataError, "JSON"):
        folder.read_json("summary.json")
    (folder.path / "summary.json").write_text("[]")
    with raises(DataError, "list", "a JSON object"):
        folder.read_json("summary.json")


def test_candidates_keep_queries_texts_and_empty_lists(folder: RunFolder) -> None:
    lists = [
        Ranking.from_order(Query(id="1", text="first é"), [Document(id="b"), Document(id="a")]),
        Ranking.from_order(Query(id="2", text=""), []),
    ]
    folder.write_candidates(lists, "bm25")
    again = folder.read_candidates()
    assert [(r.query.id, r.query.text, r.doc_ids) for r in again.values()] == [
        ("1", "first é", ("b", "a")),
        ("2", "", ()),
    ]
    assert again.name == "bm25"


def test_qrels_round_trip_and_may_be_absent(folder: RunFolder) -> None:
    assert len(folder.read_qrels()) == 0
    folder.write_qrels(Qrels({"1": {"a": 2, "b": 0}}))
    assert folder.read_qrels()["1"] == {"a": 2, "b": 0}


def test_json_files_are_indented_unicode_and_end_with_a_line_break(folder: RunFolder) -> None:
    folder.write_json("summary.json", {"modèle": 1})
    assert (folder.path / "summary.json").read_bytes() == '{\n  "modèle": 1\n}\n'.encode()
