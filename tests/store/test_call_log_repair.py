from __future__ import annotations

import shutil
import sqlite3
import stat
from contextlib import closing
from pathlib import Path

import pytest

from rerank.errors import DataError
from rerank.prompts.base import Message
from rerank.store import CallLog, RunFolder, repair_call_log
from rerank.tasks import Reply, Request, Sampling
from rerank.types import Document, Query, Window
from tests.raising import raises


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
