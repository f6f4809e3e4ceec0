"""The call log: committed is committed, and a bad file or disk is a typed error."""

from __future__ import annotations

import pickle
import random
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from rerank.errors import DataError, MissingResourceError, StorageError
from rerank.prompts.base import Message, Prompt
from rerank.store import CallLog, RunFolder, call_log, open_shared_cache, repair_call_log
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


PASSAGES = [f"Passage {n}: " + " ".join(str(n * word) for word in range(60)) for n in range(40)]


def prompt(number: int) -> Prompt:
    return Message("system", "Café"), Message("user", PASSAGES[number % 40] + PASSAGES[(7 * number) % 40], ("a.png",))


def put(log: CallLog, *numbers: int, queries: int = 3) -> None:
    for number in numbers:
        window = Window(Query(id=f"q{number % queries}"), (Document(id="a"),))
        request = Request(prompt=prompt(number), sampling=Sampling(max_tokens=5), window=window)
        log.put([(f"digest {number}", request, Reply(text="[1]"))], "m")


def read(log: CallLog) -> dict[str, Prompt | None]:
    return {call.digest: log.prompt(call.row) for call in log.calls()}


def expected(*numbers: int) -> dict[str, Prompt | None]:
    return {f"digest {number}": prompt(number) for number in numbers}


@pytest.mark.parametrize("kept", [1, 2, 256])
def test_prompts_are_read_as_they_were_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept: int) -> None:
    monkeypatch.setattr(call_log, "_QUERIES", kept)
    with CallLog(tmp_path / "c") as log:
        put(log, *range(50))
    with CallLog(tmp_path / "c") as log, CallLog(tmp_path / "c") as other:  # resumed, by two processes
        put(log, *range(50, 60))
        put(other, *range(60, 70))
        put(log, *range(30, 80))
    with CallLog(tmp_path / "c", readonly=True) as log:
        assert log.has_all_prompts()
        assert read(log) == expected(*range(80))
        assert log.prompt(41) == prompt(40)


def test_each_prompt_is_unpacked_once_if_queries_alternate_irregularly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(call_log, "_QUERIES", 4)
    chance, selects = random.Random(0), list[str]()
    with closing(sqlite3.connect(":memory:")) as database:
        database.execute(call_log.PROMPTS_SCHEMA)
        writer, reader = call_log.LoggedPrompts(), call_log.LoggedPrompts()
        for row in range(1, 201):
            writer.add(database, row, f"q{chance.randrange(4)}", PASSAGES[row % 40])
        database.set_trace_callback(selects.append)
        assert [reader.read(database, row) for row in range(1, 201)] == [PASSAGES[row % 40] for row in range(1, 201)]
    assert len(selects) == 200


def test_shared_text_is_stored_once(tmp_path: Path) -> None:
    sizes = {}
    for storage in ("full", "once", "none"):
        with CallLog(tmp_path / storage, prompts=storage) as log:
            put(log, *range(200), queries=1)
            assert log.has_all_prompts() == (storage != "none")
            assert read(log) == (expected(*range(200)) if storage != "none" else dict.fromkeys(expected(*range(200))))
        with closing(sqlite3.connect(tmp_path / storage)) as database:
            columns = "(SELECT SUM(LENGTH(prompt)) FROM calls), (SELECT SUM(LENGTH(packed)) FROM prompts)"
            sizes[storage] = sum(size or 0 for size in database.execute(f"SELECT {columns}").fetchone())
    assert sizes["none"] == 0 < 10 * sizes["once"] < sizes["full"]


def test_a_transaction_that_fails_leaves_no_dictionary(tmp_path: Path) -> None:
    with CallLog(tmp_path / "c") as log:
        put(log, 0)
        window = Window(Query(id="q0"), (Document(id="a"),))
        request = Request(prompt=prompt(3), sampling=Sampling(max_tokens=5), window=window)
        with raises(DataError):
            log.put([("x", request, Reply()), (None, request, Reply())], None)  # type: ignore[list-item,arg-type]
        put(log, 6)
        assert read(log) == expected(0, 6)


def test_a_damaged_prompt_is_an_error_and_not_needed_for_replies(tmp_path: Path) -> None:
    with CallLog(tmp_path / "calls.sqlite") as log:
        put(log, 0, 3, 1)
    with closing(sqlite3.connect(tmp_path / "calls.sqlite")) as database, database:
        database.execute("UPDATE prompts SET packed = x'00' WHERE row = 1")
    with CallLog(tmp_path / "calls.sqlite") as log:
        assert not log.is_whole()
        assert len(list(log.calls())) == 3
        with raises(DataError, "Row 2"):
            log.prompt(2)
        assert log.prompt(3) == prompt(1)
    repair = repair_call_log(RunFolder(tmp_path))
    assert (repair.kept, repair.damaged, repair.prompts_lost) == (3, 0, 2)


def test_a_repaired_log_keeps_its_prompts(tmp_path: Path) -> None:
    with CallLog(tmp_path / "calls.sqlite") as log:
        put(log, *range(9))
    with closing(sqlite3.connect(tmp_path / "calls.sqlite")) as database, database:
        database.execute("UPDATE calls SET text = 'another' WHERE rowid = 1")
    assert repair_call_log(RunFolder(tmp_path)).kept == 8
    with CallLog(tmp_path / "calls.sqlite") as log:
        assert read(log) == expected(*range(1, 9))


def test_a_log_of_an_older_version_has_its_prompts_in_the_rows(tmp_path: Path) -> None:
    with CallLog(tmp_path / "c", prompts="full") as log:
        put(log, *range(5))
    with closing(sqlite3.connect(tmp_path / "c")) as database, database:
        database.execute("DROP TABLE prompts")
    with CallLog(tmp_path / "c", readonly=True) as log:
        assert log.has_all_prompts()
        assert read(log) == expected(*range(5))


def test_it_agrees_with_a_set() -> None:
    rng, seen, rows = random.Random(0), set[int](), RowSet()
    for _ in range(5000):
        number = rng.choice((rng.randrange(3000), 2**63 - 1 - rng.randrange(5)))
        assert rows.add(number) == (number not in seen)
        seen.add(number)
        assert number in rows
    assert all((number in rows) == (number in seen) for number in range(3000))


def test_dense_numbers_take_less_than_a_byte() -> None:
    rows = RowSet()
    assert all(rows.add(number) for number in range(1, 100_001))
    assert sum(block.__sizeof__() for block in rows._blocks.values()) < 100_000 / 4
