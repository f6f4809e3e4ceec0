"""A hostile server: no traceback, no reply lost, none billed twice after it was committed, no document lost."""

from __future__ import annotations

import json
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.attacks.hostile_modes import FINE, LISTINGS, MAX_BYTES, MODES, SCORES, Mode
from tests.backends.faulty_server import Act, FaultyServer, models, weighed
from tests.cli.conftest import Cli, cli, own_folders

__all__ = ["cli", "own_folders"]

pytestmark = [pytest.mark.enable_socket, pytest.mark.filterwarnings("default")]

#: Number of documents of every query.
DOCS = 3


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rerank.backends.base.connection.MAX_BYTES", MAX_BYTES)
    monkeypatch.setattr("rerank.backends.base.connection.FIRST_WAIT", 0.0)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    monkeypatch.delenv("RERANK_API_KEY", raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-a-secret-of-this-test")


class Victim:
    """A run folder and the server that its run asks.

    Attributes:
        hostile: The answer to the hostile queries; None for a healthy server.
        hostile_queries: The queries that are answered so.
        answered: Query -> number of healthy answers that were sent.
        asked: Query -> number of requests.
    """

    def __init__(
        self,
        folder: Path,
        cli: Cli,
        flags: tuple[str, ...] = (),
        *,
        listing: Act | None = None,
        fine: Act = FINE,
        queries: int = 6,
    ) -> None:
        self.folder, self.cli, self.flags, self.fine = folder, cli, flags, fine
        self.queries = [f"q{n}" for n in range(queries)]
        self.hostile: Act | None = None
        self.hostile_queries: tuple[str, ...] = ("q1", "q4")
        self.answered: Counter[str] = Counter()
        self.asked: Counter[str] = Counter()
        self.server = FaultyServer([self._answer], listing=listing)
        docs = [{"docid": f"d{n}", "doc": f"text {n}"} for n in range(DOCS)]
        rows = [{"query": {"qid": query, "text": f"about {query}."}, "candidates": docs} for query in self.queries]
        (folder / "lists.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")

    def _answer(self, body: dict[str, Any]) -> Act:
        query = next(query for query in self.queries if f"about {query}." in str(body["messages"]))
        self.asked[query] += 1
        if self.hostile is not None and query in self.hostile_queries:
            return self.hostile
        self.answered[query] += 1
        return self.fine

    def where(self) -> tuple[str, ...]:
        """Return the flags that name the lists and the server."""
        lists = ("--collection", "requests:lists.jsonl", "--first-stage", "candidates", "--concurrency", "3")
        return (*lists, "--model", "openai:m", "--base-url", self.server.url)

    def run(self, *flags: str) -> int:
        """Run the command and return its exit code. An exception would be a traceback, and fails the test."""
        done = self.cli("rerank", *self.where(), *self.flags, *flags, "--out", "run", "-o", "out.trec")
        assert "Traceback" not in done.stderr
        assert "sk-a-secret-of-this-test" not in done.stderr
        return done.returncode

    def committed(self) -> dict[str, tuple[str, str]]:
        """Query -> text and finish reason of the calls that are in the log."""
        path = self.folder / "run" / "calls.sqlite"
        if not path.exists():
            return {}
        rows: list[tuple[str, str, str]] = []
        with closing(sqlite3.connect(path)) as log, suppress(sqlite3.OperationalError):  # no table yet
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
    assert {*victim.committed()} == {*victim.queries}
    assert all(victim.committed()[query] == reply for query, reply in before.items())
    assert victim.lists() == {query: {f"d{n}" for n in range(DOCS)} for query in victim.queries}
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
            fine = len(victim.queries) - len(victim.hostile_queries)
            statuses = victim.statuses()
            if mode.outcome == "read":
                assert not {*statuses} & {"empty", "refused", "error"}
            else:
                assert statuses == {"ok": fine, mode.outcome: len(victim.hostile_queries)}
            assert ({*victim.hostile_queries} <= {*committed}) == (mode.outcome != "error")
        resume(victim)


@pytest.mark.parametrize("name", LISTINGS)
def test_a_hostile_list_of_models(name: str, tmp_path: Path, cli: Cli) -> None:
    victim = Victim(tmp_path, cli, ("--retries", "1"), listing=LISTINGS[name])
    with victim.server:
        assert victim.run() in (0, 2, 6)
        resume(victim)


@pytest.mark.parametrize("name", SCORES)
def test_hostile_log_probabilities(name: str, tmp_path: Path, cli: Cli) -> None:
    """A method that needs log-probabilities: what cannot be read is an empty verdict, and is not asked for again."""
    flags, fine = ("--retries", "1", "--method", "full:logits"), weighed(A=-0.1, B=-2.0, C=-3.0)
    victim = Victim(tmp_path, cli, flags, listing=models("m", owner="vllm", max_model_len=4096), fine=fine)
    with victim.server:
        victim.hostile = SCORES[name]
        assert victim.run() in (0, 7)
        assert victim.statuses() == {"ok": 4, "empty": 2}
        resume(victim)


def test_a_hanging_request_holds_back_no_other(tmp_path: Path, cli: Cli) -> None:
    """Of 16 requests, 15 have been answered when the command is interrupted: 15 are committed."""
    victim = Victim(tmp_path, cli, queries=16)
    with victim.server:
        victim.hostile, victim.hostile_queries = replace(FINE, wait=60.0), ("q7",)
        command = [sys.executable, "-m", "rerank", "rerank", *victim.where(), "--out", "run", "-o", "out.trec"]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        until = time.monotonic() + 120
        while len(victim.committed()) < 15:
            assert time.monotonic() < until
            assert process.poll() is None
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=60)
        assert process.returncode == 130
        assert "Traceback" not in stderr
        resume(victim)
