"""Compressed prompts of a call log."""

from __future__ import annotations

import random
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from rerank.errors import DataError
from rerank.prompts.base import Message, Prompt
from rerank.store import CallLog, RunFolder, call_log, repair_call_log
from rerank.tasks import Reply, Request, Sampling
from rerank.types import Document, Query, Window
from tests.raising import raises

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
