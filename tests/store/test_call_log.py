"""The call log: committed is committed, and a bad file or disk is a typed error."""

from __future__ import annotations

import pickle
import sqlite3
from pathlib import Path

import pytest

from rerank.errors import DataError, MissingResourceError, StorageError
from rerank.prompts.base import Message
from rerank.store import CallLog, open_shared_cache
from rerank.store.call_log import RowSet
from rerank.tasks import Reply, Request, Sampling
from rerank.types import Document, Query, Window
from tests.raising import raises


def request(text: str, *, seed: int = 0) -> Request:
    window = Window(Query(id="q", text="words"), (Document(id="b"), Document(id="a")))
    return Request(prompt=(Message("user", text),), sampling=Sampling(max_tokens=5, seed=seed), window=window)


def reply(text: str = "[1]") -> Reply:
    return Reply(text=text, tokens_in=7, tokens_out=3, seconds=0.5, finish="length")


def test_what_was_put_is_there_after_reopening(tmp_path: Path) -> None:
    with CallLog(tmp_path / "c") as log:
        log.put([("x", request("one", seed=4), reply("[2] > [1] é")), ("y", request("two"), reply())], "m")
    with CallLog(tmp_path / "c") as log:
        assert len(log) == 2
        assert log.get(["x", "z"]) == {"x": reply("[2] > [1] é")}
        calls = list(log.calls())
    assert [(c.query_id, c.doc_ids, c.seed) for c in calls] == [("q", ("b", "a"), 4), ("q", ("b", "a"), 0)]


def test_a_call_is_kept_once_and_the_first_stands(tmp_path: Path) -> None:
    with CallLog(tmp_path / "c") as log:
        log.put([("x", request("one"), reply("first"))], "m")
        log.put([("x", request("one"), reply("second"))], "m")
        assert [call.reply.text for call in log.calls()] == ["first"]


def row_set(*rows: int) -> RowSet:
    made = RowSet()
    for row in rows:
        made.add(row)
    return made


def test_calls_that_a_run_does_not_use_are_kept_aside(tmp_path: Path) -> None:
    with CallLog(tmp_path / "c") as log:
        old, new = log.put([("x", request("one"), reply("old")), ("y", request("two"), reply("new"))], "m")
        assert log.set_aside_unmatched(row_set(old, new)) == 0
        assert not log._has_table("unmatched_calls")  # the file is as it was before there was such a table
        assert log.set_aside_unmatched(row_set(new)) == 1
    with CallLog(tmp_path / "c", readonly=True) as log:
        assert [call.reply.text for call in log.calls()] == ["new"]
        assert len(log) == len(log.get(["x", "y"])) == 2
    with CallLog(tmp_path / "c") as log:
        assert log.set_aside_unmatched(row_set(old, new)) == 0
        assert len(list(log.calls())) == 2


def test_commitment_is_all_or_none(tmp_path: Path) -> None:
    broken = Reply(finish=None)  # type: ignore[arg-type]
    with CallLog(tmp_path / "c") as log:
        with pytest.raises(DataError):
            log.put([("x", request("one"), reply()), ("y", request("two"), broken)], "m")
        assert len(log) == 0


def test_counts_by_model_and_clears(tmp_path: Path) -> None:
    with CallLog(tmp_path / "c") as log:
        log.put([("x", request("one"), reply()), ("y", request("two"), reply())], "m")
        (row,) = log.by_model()
        assert (row["model"], row["calls"], row["tokens_in"], row["tokens_out"]) == ("m", 2, 14, 6)
        assert log.clear() == 2
        assert len(log) == 0


def test_another_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "c").write_text("this is a text file, long enough to be told from an empty data base " * 20)
    with raises(DataError, "SQLite"):
        CallLog(tmp_path / "c")


def test_a_folder_that_is_not_there_is_a_storage_error(tmp_path: Path) -> None:
    with raises(StorageError, "--resume"):
        CallLog(tmp_path / "no" / "c")


def test_a_full_disk_is_a_storage_error_and_keeps_what_was_committed(tmp_path: Path) -> None:
    with CallLog(tmp_path / "c") as log:
        log.put([("x", request("one"), reply())], "m")
        pages = log._db.execute("PRAGMA page_count").fetchone()[0]
        log._db.execute(f"PRAGMA max_page_count={pages}")  # SQLite's own way of running out of disk
        with raises(StorageError, "full"):
            log.put([(str(n), request("x" * 5000), reply("y" * 5000)) for n in range(20)], "m")
        assert len(log) == 1


def test_the_write_ahead_log_is_on(tmp_path: Path) -> None:
    with CallLog(tmp_path / "c"):
        db = sqlite3.connect(tmp_path / "c")
        assert db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        db.close()


def test_the_shared_cache_lies_in_the_users_cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with open_shared_cache() as log:
        assert log.path == tmp_path / "listrank" / "calls" / "calls.sqlite"


def test_a_log_is_opened_for_reading_only_if_it_exists(tmp_path: Path) -> None:
    with raises(MissingResourceError, tmp_path / "c"):
        CallLog(tmp_path / "c", readonly=True)
    assert not (tmp_path / "c").exists()
    with CallLog(tmp_path / "c") as log:
        log.put([("x", request("one"), reply())], "m")
    with CallLog(tmp_path / "c", readonly=True) as log:
        assert log.get(["x"]) == {"x": reply()}


def test_a_closed_log_opens_again_with_the_next_call(tmp_path: Path) -> None:
    log = CallLog(tmp_path / "c")
    log.put([("x", request("one"), reply())], "m")
    log.close()
    assert not (tmp_path / "c-wal").exists()
    assert len(log) == 1
    log.close()
    (tmp_path / "c").unlink()
    with pytest.raises(MissingResourceError):
        CallLog(tmp_path / "c", readonly=True)


def test_no_connection_is_open_during_a_fork(tmp_path: Path) -> None:
    """SQLite must not use the connection of a parent process, and the log of both processes is the same file."""
    with CallLog(tmp_path / "c") as log:
        log.put([("x", request("one"), reply())], "m")
        log.before_fork()
        assert not (tmp_path / "c-wal").exists()
        log.after_fork_in_parent()
        assert len(log) == 1


def test_a_pickled_log_is_the_same_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with CallLog(Path("c")) as log:
        log.put([("x", request("one"), reply())], "m")
        pickled = pickle.dumps(log)
        monkeypatch.chdir("/")
        with pickle.loads(pickled) as copy:
            assert copy.get(["x"]) == {"x": reply()}
