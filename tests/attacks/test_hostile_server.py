"""A hostile server: no traceback, no reply lost, none billed twice after it was committed, no document lost."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.attacks.hostile_modes import FINE, MODES, Mode
from tests.backends.faulty_server import Act, FaultyServer
from tests.cli.conftest import Cli, cli, own_folders

__all__ = ["cli", "own_folders"]

pytestmark = [pytest.mark.enable_socket, pytest.mark.filterwarnings("default")]

#: Queries, and those that the server answers in its hostile way.
QUERIES, HOSTILE = tuple(f"q{n}" for n in range(6)), ("q1", "q4")
DOCS = 3


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rerank.backends.openai.retries.FIRST_WAIT", 0.0)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    monkeypatch.delenv("RERANK_API_KEY", raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-a-secret-of-this-test")


class Victim:
    """A run folder and the server that its run asks.

    Attributes:
        hostile: The answer to the hostile queries; None for a healthy server.
        answered: Query -> number of healthy answers that were sent.
        asked: Query -> number of requests.
    """

    def __init__(self, folder: Path, cli: Cli, flags: tuple[str, ...] = (), listing: Act | None = None) -> None:
        self.folder, self.cli, self.flags = folder, cli, flags
        self.hostile: Act | None = None
        self.answered: Counter[str] = Counter()
        self.asked: Counter[str] = Counter()
        self.server = FaultyServer([self._answer], listing=listing)
        docs = [{"docid": f"d{n}", "doc": f"text {n}"} for n in range(DOCS)]
        rows = [{"query": {"qid": query, "text": f"about {query}"}, "candidates": docs} for query in QUERIES]
        (folder / "lists.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")

    def _answer(self, body: dict[str, Any]) -> Act:
        query = next(query for query in QUERIES if f"about {query}" in body["messages"][-1]["content"])
        self.asked[query] += 1
        if self.hostile is not None and query in HOSTILE:
            return self.hostile
        self.answered[query] += 1
        return FINE

    def run(self, *flags: str) -> int:
        """Run the command and return its exit code. An exception would be a traceback, and fails the test."""
        where = ("--collection", "requests:lists.jsonl", "--model", "openai:m", "--base-url", self.server.url)
        done = self.cli("rerank", *where, *self.flags, *flags, "--out", "run", "--concurrency", "3", "-o", "out.trec")
        assert "Traceback" not in done.stderr
        assert "sk-a-secret-of-this-test" not in done.stderr
        return done.returncode

    def committed(self) -> dict[str, tuple[str, str]]:
        """Query -> text and finish reason of the calls that are in the log."""
        path = self.folder / "run" / "calls.sqlite"
        if not path.exists():
            return {}
        with closing(sqlite3.connect(path)) as log:
            rows = log.execute("SELECT query_id, text, finish FROM calls").fetchall()
        assert len({query for query, *_ in rows}) == len(rows)
        return {query: (text, finish) for query, text, finish in rows}

    def statuses(self) -> dict[str, int]:
        windows = json.loads((self.folder / "run" / "summary.json").read_text(encoding="utf-8"))["windows"]
        return {status: count for status, count in windows.items() if count}

    def lists(self) -> dict[str, set[str]]:
        lists: dict[str, set[str]] = {}
        for line in (self.folder / "run" / "run.trec").read_text(encoding="utf-8").splitlines():
            query, _, doc, *_ = line.split()
            lists.setdefault(query, set()).add(doc)
        return lists


def resume(victim: Victim) -> None:
    """Resume against a healthy server: only what was not committed is asked, and the result is complete."""
    before = victim.committed()
    victim.hostile = None
    victim.asked.clear()
    assert victim.run("--resume") in (0, 7)
    assert not {*victim.asked} & {*before}
    assert {*victim.committed()} == {*QUERIES}
    assert all(victim.committed()[query] == reply for query, reply in before.items())
    assert victim.lists() == {query: {f"d{n}" for n in range(DOCS)} for query in QUERIES}
    asked = dict(victim.asked)
    victim.run("--resume")
    assert dict(victim.asked) == asked


@pytest.mark.parametrize("name", MODES)
def test_a_hostile_reply(name: str, tmp_path: Path, cli: Cli) -> None:
    mode: Mode = MODES[name]
    victim = Victim(tmp_path, cli, mode.flags)
    with victim.server:
        victim.hostile = mode.act
        code = victim.run()
        committed = victim.committed()
        # Every answer that was sent whole is in the log, whatever the others were.
        assert {query for query in victim.answered if victim.answered[query]} <= {*committed}
        if mode.outcome == "ends":
            assert code == 6
        else:
            fine = len(QUERIES) - len(HOSTILE)
            statuses = victim.statuses()
            if mode.outcome == "read":
                assert not {*statuses} & {"empty", "refused", "error"}
            else:
                assert statuses == {"ok": fine, mode.outcome: len(HOSTILE)}
            assert ({*HOSTILE} <= {*committed}) == (mode.outcome != "error")
        resume(victim)
