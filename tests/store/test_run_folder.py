"""The run folder: what may be begun where, files that are whole or absent, judge scores, repairs of call logs."""

from __future__ import annotations

import math
import shutil
import sqlite3
import stat
from contextlib import closing
from pathlib import Path

import pytest

from rerank.errors import DataError, MissingResourceError, StorageError, UsageError
from rerank.io.run_files import open_trec_run_file
from rerank.prompts.base import Message
from rerank.store import CallLog, RunFolder, hash_identity, repair_call_log
from rerank.store.run_folder import JudgeScores, open_judge_scores, read_judge_scores
from rerank.tasks import Reply, Request, Sampling
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
    with raises(DataError, f"The run folder's file {str(folder.path / 'summary.json')!r}", "JSON"):
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
    folder.write_json("batches.json", {"modèle": 1})
    assert (folder.path / "batches.json").read_bytes() == '{\n  "modèle": 1\n}\n'.encode()
    folder.write_json("summary.json", {"modèle": 1})
    assert folder.read_json("summary.json") == {"modèle": 1}
    assert not folder.is_changed("summary.json")
    path = folder.path / "summary.json"
    path.write_text(path.read_text("utf-8").replace(" 1", " 2"), "utf-8")
    assert folder.is_changed("summary.json")
    with raises(DataError, "summary.json", "was changed", "--overwrite"):
        folder.check_checksums()


ROWS = [JudgeScores(query="q1", kind="log-odds", scores={"d1": -0.1234567890123, "d é": None}), JudgeScores(query="q2")]


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "judge_scores.jsonl"
    with open_judge_scores(path) as write:
        for row in ROWS:
            write(row)
    assert read_judge_scores(path) == {row.query: row for row in ROWS}
    first = path.read_text("utf-8").splitlines()[0]
    assert first == '{"query": "q1", "kind": "log-odds", "scores": {"d1": -0.1234567890123, "d é": null}}'


def test_older_folders_have_no_file(tmp_path: Path) -> None:
    assert read_judge_scores(tmp_path / "judge_scores.jsonl") == {}


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("{", "invalid JSON"),
        ("[]", "[]"),
        ('{"kind": "k", "scores": {}}', "query"),
        ('{"query": 1, "kind": "k", "scores": {}}', "query"),
        ('{"query": "q", "kind": null, "scores": {}}', "kind"),
        ('{"query": "q", "scores": {}}', "query"),
        ('{"query": "q", "kind": "k", "score": {}}', "score"),
        ('{"query": "q", "kind": "k", "scores": [1]}', "scores"),
        ('{"query": "q", "kind": "k", "scores": {"d": "1"}}', "'d'"),
        ('{"query": "q", "kind": "k", "scores": {"d": true}}', "'d'"),
        ('{"query": "q", "kind": "k", "scores": {"d": NaN}}', "nan"),
        ('{"query": "q", "kind": "k", "scores": {"d": Infinity}}', "inf"),
        ('{"query": "q", "kind": "", "scores": {"d": 1}}', "no kind"),
        ('{"query": "first", "kind": "k", "scores": {"d": 1}}', "duplicate query 'first'"),
    ],
)
def test_bad_lines_are_named(tmp_path: Path, line: str, named: str) -> None:
    path = tmp_path / "judge_scores.jsonl"
    path.write_text(f'{{"query": "first", "kind": "k", "scores": {{}}}}\n{line}\n', "utf-8")
    with raises(DataError, f"{path}:2", named):
        read_judge_scores(path)


def test_invalid_scores_are_not_written() -> None:
    with raises(DataError, "nan", "'d'"):
        JudgeScores(query="q", kind="k", scores={"d": math.nan})


def put(log: CallLog, *names: str) -> None:
    window = Window(Query(id="q", text="words"), (Document(id="b"), Document(id="a")))
    for name in names:
        request = Request(prompt=(Message("user", name),), sampling=Sampling(max_tokens=5), window=window)
        log.put([(name, request, Reply(text=f"reply to {name}", finish="stop"))], "m")


def write_log(folder: Path, *names: str) -> Path:
    with CallLog(folder / "calls.sqlite") as log:
        put(log, *names)
    return folder / "calls.sqlite"


def change(path: Path, statement: str) -> None:
    with closing(sqlite3.connect(path)) as database, database:
        database.execute(statement)


def test_a_changed_row_is_an_error_and_the_others_are_kept(tmp_path: Path) -> None:
    path = write_log(tmp_path, "one", "two", "three")
    change(path, "UPDATE calls SET text = 'another' WHERE digest = 'two'")
    with CallLog(path) as log, raises(DataError, path, "--repair"):
        log.get(["two"])
    (tmp_path / "summary.json").write_text("{}")
    repair = repair_call_log(RunFolder(tmp_path))
    assert (repair.kept, repair.damaged, repair.original) == (2, 1, tmp_path / "calls.sqlite.damaged1")
    with CallLog(path) as log:
        assert list(log.get(["one", "two", "three"])) == ["one", "three"]
    assert not (tmp_path / "summary.json").exists()  # the run is unfinished again


def test_a_whole_log_is_not_changed(tmp_path: Path) -> None:
    path = write_log(tmp_path, "one")
    before = path.read_bytes()
    assert repair_call_log(RunFolder(tmp_path)).original is None
    assert path.read_bytes() == before


@pytest.mark.parametrize("share", [0.5, 0.75, 0.9])
def test_a_log_that_was_cut_off_keeps_the_rows_of_the_pages_that_are_left(tmp_path: Path, share: float) -> None:
    names = [f"{number:03}" for number in range(200)]
    path = write_log(tmp_path, *names)
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    repair = repair_call_log(RunFolder(tmp_path))
    with CallLog(path) as log:
        kept = log.get(names)
        assert log.is_whole()
    assert 200 * (share - 0.3) < len(kept) == repair.kept < 200
    assert all(reply.text == f"reply to {name}" for name, reply in kept.items())
    assert repair.damaged <= 1  # how many rows were on the other pages cannot be known


def test_a_log_of_which_nothing_can_be_read_has_another_remedy(tmp_path: Path) -> None:
    (tmp_path / "calls.sqlite").write_bytes(b"")
    with raises(DataError, "summary.json", "--resume") as caught:
        repair_call_log(RunFolder(tmp_path))
    assert "--repair" not in str(caught.value)


def test_rows_that_are_only_in_the_write_ahead_log_are_kept(tmp_path: Path) -> None:
    folder = tmp_path / "killed"
    folder.mkdir()
    with CallLog(tmp_path / "calls.sqlite") as log:
        put(log, *map(str, range(100)))
        change(tmp_path / "calls.sqlite", "UPDATE calls SET text = 'another' WHERE digest = '7'")
        for name in ("calls.sqlite", "calls.sqlite-wal"):  # as a killed run leaves them
            shutil.copy(tmp_path / name, folder / name)
    assert (folder / "calls.sqlite").stat().st_size < 100 * 64
    repair = repair_call_log(RunFolder(folder))
    assert (repair.kept, repair.damaged) == (99, 1)
    assert {path.name for path in folder.glob("*-wal")} == {"calls.sqlite.damaged1-wal"}


def test_a_repair_that_is_killed_leaves_a_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_log(tmp_path, "one", "two")
    change(path, "UPDATE calls SET text = 'another' WHERE digest = 'two'")
    before = path.read_bytes()
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        repair_call_log(RunFolder(tmp_path))
    assert path.read_bytes() == (tmp_path / "calls.sqlite.damaged1").read_bytes() == before
    assert repair_call_log(RunFolder(tmp_path)).kept == 1


def test_rows_of_older_versions_have_no_checksum(tmp_path: Path) -> None:
    path = write_log(tmp_path, "one")
    change(path, "DROP TABLE checksums")
    with CallLog(path, readonly=True) as log:
        assert [call.reply.text for call in log.calls()] == ["reply to one"]
    with CallLog(path) as log:
        assert log.get(["one"])["one"].text == "reply to one"


def test_only_the_owner_can_read_a_log(tmp_path: Path) -> None:
    path = write_log(tmp_path, "one")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.chmod(0o644)  # as earlier versions created it
    with CallLog(path) as log:
        put(log, "two")
        files = list(tmp_path.glob("calls.sqlite*"))
        assert len(files) == 3
        assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
