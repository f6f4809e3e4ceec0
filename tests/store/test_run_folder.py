"""The run folder: what may be begun where, and files that are whole or absent."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from rerank.errors import DataError, MissingResourceError, StorageError, UsageError
from rerank.io.run_files import open_trec_run_file
from rerank.store import RunFolder, hash_identity
from rerank.types import Document, Qrels, Query, Ranking, Window
from tests.raising import raises


def document(model: str = "m", command: str = "") -> dict[str, object]:
    identity = {"model": model, "seed": 0}
    return {
        "hash": hash_identity(identity),
        "identity": identity,
        "spec": {},
        "environment": {"command": f"/usr/bin/rerank {command}"},
    }


def ranking(query: str, *doc_ids: str, text: str = "") -> Ranking:
    return Ranking.from_order(Query(id=query, text=text), [Document(id=doc_id) for doc_id in doc_ids])


def begin(folder: RunFolder, what: dict[str, object], *, resume: bool = False, overwrite: bool = False) -> None:
    with folder.begin(what, resume=resume, overwrite=overwrite):
        pass


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    made = RunFolder(tmp_path / "runs" / "one")
    begin(made, document())
    return made


def test_the_hash_depends_on_content_not_on_order() -> None:
    assert hash_identity({"a": 1, "b": 2}) == hash_identity({"b": 2, "a": 1})
    assert hash_identity({"a": 1}) != hash_identity({"a": 2})


def test_an_unfinished_folder_wants_a_word(folder: RunFolder) -> None:
    with raises(UsageError, "runs/one", "0", "--resume", "--overwrite"):
        begin(folder, document())
    begin(folder, document(), resume=True)


def test_another_run_is_named_by_what_differs(folder: RunFolder) -> None:
    with raises(UsageError, "model is m there and other here") as caught:
        begin(folder, document("other"), resume=True)
    assert "seed" not in str(caught.value)


@pytest.mark.parametrize(("length", "shown"), [(60, "y" * 60), (61, "y" * 57 + "...")])
def test_long_values_are_shortened_to_sixty_characters(folder: RunFolder, length: int, shown: str) -> None:
    with raises(UsageError, f" and {shown} here"):
        begin(folder, document("y" * length), resume=True)


@pytest.mark.parametrize(
    ("created", "executed", "named"),
    [("run", "rerank", True), ("rerank", "run", True), ("run", "run", False), ("other", "run", False)],
)
def test_the_command_that_created_another_run_is_named(
    tmp_path: Path, created: str, executed: str, named: bool
) -> None:
    folder = RunFolder(tmp_path)
    begin(folder, document(command=created))
    with raises(UsageError) as caught:
        begin(folder, document("other", executed), resume=True)
    assert (f"`rerank {created} --resume`" in str(caught.value)) == named


def test_what_an_interrupted_start_leaves_is_no_obstacle(tmp_path: Path) -> None:
    for leftover in (".lock", ".spec.json.1.tmp"):
        (tmp_path / leftover).touch()
    begin(RunFolder(tmp_path), document())
    assert {path.name for path in tmp_path.iterdir()} == {".lock", "spec.json"}


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


def test_a_file_named_as_a_call_log_does_not_make_a_run_folder(tmp_path: Path) -> None:
    (tmp_path / "spec.json").write_text('{"openapi": "3.0"}')
    (tmp_path / "calls.sqlite").write_text("notes about calls")
    with raises(UsageError, tmp_path, "--out"):
        begin(RunFolder(tmp_path), document(), overwrite=True)
    with closing(sqlite3.connect(tmp_path / "others")) as database:
        database.execute("CREATE TABLE telephone (calls)")
    (tmp_path / "others").replace(tmp_path / "calls.sqlite")
    with raises(UsageError, tmp_path, "--out"):
        begin(RunFolder(tmp_path), document(), overwrite=True)
    (tmp_path / "calls.sqlite").unlink()
    with RunFolder(tmp_path).calls():
        pass
    begin(RunFolder(tmp_path), document(), overwrite=True)  # a run folder with a damaged spec.json


def test_two_processes_do_not_share_a_folder(folder: RunFolder) -> None:
    with folder.begin(document(), resume=True), raises(UsageError, "runs/one", "--out"):
        begin(RunFolder(folder.path), document(), resume=True)
    begin(RunFolder(folder.path), document(), resume=True)


def test_a_path_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with raises(StorageError, tmp_path / "file" / "run", "a file"):
        begin(RunFolder(tmp_path / "file" / "run"), document())


def test_existing(tmp_path: Path, folder: RunFolder) -> None:
    assert RunFolder.existing(folder.path).spec() == document()
    with raises(MissingResourceError, "spec.json"):
        RunFolder.existing(tmp_path / "nothing")


def test_json_that_is_missing_or_broken(folder: RunFolder) -> None:
    with raises(MissingResourceError, "--resume"):
        folder.read_json("summary.json")
    (folder.path / "summary.json").mkdir()
    with raises(MissingResourceError, "summary.json", "folder") as caught:  # it is there, but cannot be read
        folder.read_json("summary.json")
    assert "--resume" not in str(caught.value)
    (folder.path / "summary.json").rmdir()
    (folder.path / "summary.json").write_text("{")
    with raises(DataError, "JSON"):
        folder.read_json("summary.json")
    (folder.path / "summary.json").write_text("[]")
    with raises(DataError, "list", "a JSON object"):
        folder.read_json("summary.json")
    (folder.path / "summary.json").write_text('{"a": 1}')
    with raises(DataError, "'b'"):
        folder.read_json("summary.json", "a", "b")


def test_candidates_keep_queries_texts_and_empty_lists(folder: RunFolder) -> None:
    folder.write_candidates([ranking("1", "b", "a", text="first é"), ranking("2")], "bm25")
    again = folder.read_candidates()
    assert [(r.query.id, r.query.text, r.doc_ids) for r in again.values()] == [
        ("1", "first é", ("b", "a")),
        ("2", "", ()),
    ]
    assert again.name == "bm25"
    assert (folder.path / "queries.jsonl").read_text("utf-8").splitlines()[0] == '{"id": "1", "text": "first é"}'


def test_results_are_paired_with_their_candidates(folder: RunFolder) -> None:
    given = [ranking("1", "b", "a"), ranking("2"), ranking("3", "c")]
    with open_trec_run_file(folder.path / "run.trec", "method") as write:
        write(ranking("1", "a", "b"))
        write(ranking("3", "c"))
    assert [(one.doc_ids, other.doc_ids) for one, other in folder.results(given)] == [
        (("b", "a"), ("a", "b")),
        ((), ()),
        (("c",), ("c",)),
    ]
    for wrong in (given[1:], [*given, ranking("4", "d")], [ranking("1", "b", "x")], [ranking("1", "b")]):
        with raises(DataError, "run.trec", "--overwrite"):
            list(folder.results(wrong))


def test_a_run_is_empty_only_if_its_candidates_are(folder: RunFolder) -> None:
    with raises(MissingResourceError, "run.trec"):
        folder.read_run("run.trec")
    for name in ("run.trec", "first_stage.trec"):
        (folder.path / name).touch()
    assert len(folder.read_run("run.trec")) == 0
    with open_trec_run_file(folder.path / "first_stage.trec", "bm25") as write:
        write(ranking("1", "a"))
    with raises(DataError, "run.trec"):
        folder.read_run("run.trec")


def test_splits_and_passages_round_trip_and_may_be_absent(folder: RunFolder) -> None:
    assert (folder.read_splits(), folder.read_passages()) == ({}, {})
    with folder.open_splits() as write:
        assert not (folder.path / "splits.jsonl").exists()
        write(Window(Query(id="é", text=""), (Document(id="a"), Document(id="b"), Document(id="ç"))), 2)
        write(Window(Query(id="2", text=""), (Document(id="a"), Document(id="b"))), 1)
    assert folder.read_splits() == {("é", ("a", "b", "ç")): 2, ("2", ("a", "b")): 1}
    assert (folder.path / "splits.jsonl").read_text("utf-8").splitlines()[0] == (
        '{"query": "é", "docs": ["a", "b", "ç"], "room": 2}'
    )
    passages = [Document(id=f"{doc}#{n}", part_of=doc) for doc, count in (("é", 2), ("b", 1)) for n in range(count)]
    folder.write_passages([Ranking.from_order(Query(id="1", text=""), passages)])
    assert folder.read_passages() == {"1": {"é": 2, "b": 1}}
    assert (folder.path / "passages.jsonl").read_text("utf-8") == '{"query": "1", "docs": {"é": 2, "b": 1}}\n'


@pytest.mark.parametrize("line", ["{", "[]", "{}", '{"query": "1", "docs": 3, "room": 1}'])
def test_splits_and_passages_that_are_broken_are_named(folder: RunFolder, line: str) -> None:
    for name in ("splits.jsonl", "passages.jsonl"):
        (folder.path / name).write_text(line + "\n")
        with raises(DataError, name):
            folder.read_splits() if name == "splits.jsonl" else folder.read_passages()


def test_qrels_round_trip_and_may_be_absent(folder: RunFolder) -> None:
    assert len(folder.read_qrels()) == 0
    folder.write_qrels(Qrels({"1": {"a": 2, "b": 0}}))
    assert folder.read_qrels()["1"] == {"a": 2, "b": 0}


def test_json_files_are_indented_unicode_and_end_with_a_line_break(folder: RunFolder) -> None:
    folder.write_json("summary.json", {"modèle": 1})
    assert (folder.path / "summary.json").read_bytes() == '{\n  "modèle": 1\n}\n'.encode()
