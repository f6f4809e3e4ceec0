from __future__ import annotations

import sqlite3
import stat
from contextlib import closing
from pathlib import Path

from rerank.errors import DataError
from rerank.prompts.base import Message
from rerank.store import CallLog, RunFolder, repair_call_log
from rerank.tasks import Reply, Request, Sampling
from rerank.types import Document, Query, Window
from tests.raising import raises


def write_log(folder: Path, *names: str) -> Path:
    window = Window(Query(id="q", text="words"), (Document(id="b"), Document(id="a")))
    with CallLog(folder / "calls.sqlite") as log:
        for name in names:
            request = Request(prompt=(Message("user", name),), sampling=Sampling(max_tokens=5), window=window)
            log.put([(name, request, Reply(text=f"reply to {name}", finish="stop"))], "m")
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


def test_rows_of_older_versions_have_no_checksum(tmp_path: Path) -> None:
    path = write_log(tmp_path, "one")
    change(path, "DROP TABLE checksums")
    with CallLog(path, readonly=True) as log:
        assert [call.reply.text for call in log.calls()] == ["reply to one"]
    with CallLog(path) as log:
        assert log.get(["one"])["one"].text == "reply to one"


def test_only_the_owner_can_read_a_log(tmp_path: Path) -> None:
    assert stat.S_IMODE(write_log(tmp_path, "one").stat().st_mode) == 0o600
