"""`--resume`: a run continues with the settings in its folder, except for those that are given again."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Cli

#: A cap at which only some of the calls are made, so that the run stays unfinished.
CAP = ("--max-total-tokens", "700")


@pytest.fixture
def stopped(cli: Cli, lists: tuple[str, ...]) -> Path:
    """The folder of an unfinished run with options that are not the defaults."""
    done = cli("run", *lists, "--method", "sliding,size=4,stride=2", "--depth", "9", *CAP, "--out", "a")
    assert done.returncode == 7, done.stderr
    return Path("a")


def summary_of(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "summary.json").read_text())
    return content


def test_omitted_options_come_from_the_folder(cli: Cli, stopped: Path) -> None:
    done = cli("run", "--resume", "--out", stopped)
    assert done.returncode == 0, done.stderr
    summary = summary_of(stopped)
    assert (summary["complete"], summary["depth"], summary["method"]) == (True, 9, "sliding,size=4,stride=2")
    assert 0 < summary["reused_calls"] < summary["calls"]
    assert cli("verify", stopped).returncode == 0


def test_calls_that_no_request_matches_are_counted(cli: Cli, stopped: Path) -> None:
    with closing(sqlite3.connect(stopped / "calls.sqlite")) as log, log:
        log.execute("DELETE FROM checksums WHERE digest = (SELECT digest FROM calls WHERE rowid = 1)")
        log.execute("UPDATE calls SET digest = 'of another prompt' WHERE rowid = 1")
    done = cli("run", "--resume", "--out", stopped)
    assert done.returncode == 0, done.stderr
    assert summary_of(stopped)["unmatched_calls"] == 1
    assert "1 logged calls match no request" in done.stderr
    assert cli("verify", stopped).returncode == 0


def test_a_damaged_log_is_found_before_new_calls_are_made(cli: Cli, stopped: Path) -> None:
    with closing(sqlite3.connect(stopped / "calls.sqlite")) as log, log:
        log.execute("UPDATE calls SET text = 'another reply' WHERE rowid = 1")
        before = log.execute("SELECT count(*) FROM calls").fetchone()
    done = cli("run", "--resume", "--out", stopped)
    assert done.returncode == 5
    assert "--repair" in done.stderr
    with closing(sqlite3.connect(stopped / "calls.sqlite")) as log:
        assert log.execute("SELECT count(*) FROM calls").fetchone() == before
    assert "calls" in cli("verify", "--repair", stopped).stderr
    assert cli("run", "--resume", "--out", stopped).returncode == 0


def test_without_out_nothing_is_read(cli: Cli, stopped: Path) -> None:
    done = cli("run", "--resume")
    assert done.returncode == 2
    assert "--collection" in done.stderr


def test_without_resume_nothing_is_read(cli: Cli, stopped: Path) -> None:
    done = cli("run", "--out", stopped)
    assert done.returncode == 2
    assert "--collection" in done.stderr


def test_a_given_option_replaces_the_recorded_one(cli: Cli, stopped: Path) -> None:
    other = cli("run", "--resume", "--out", stopped, "--depth", "8")
    assert other.returncode == 2
    assert "depth is 9 there and 8 here" in other.stderr
    done = cli("run", "--resume", "--out", stopped, "-m", "AP")  # not part of the identity
    assert done.returncode == 0, done.stderr
    assert list(summary_of(stopped)["scores"]) == ["AP"]


def test_a_folder_of_another_command_names_that_command(cli: Cli, lists: tuple[str, ...]) -> None:
    """`rerank rerank` uses all queries, `rerank run` those with judgments."""
    judged = Path("qrels.txt").read_text(encoding="utf-8")
    Path("qrels.txt").write_text("\n".join(judged.splitlines()[:36]), encoding="utf-8")  # the last query has none
    created = cli("rerank", *lists, "--out", "a")
    assert created.returncode == 0, created.stderr
    other = cli("run", "--resume", "--out", "a")
    assert other.returncode == 2
    assert "its candidates" in other.stderr
    assert "rerank rerank --resume" in other.stderr
    assert json.loads(Path("a/spec.json").read_text())["identity"]["first_stage"][:12] not in other.stderr
    assert cli("rerank", "--resume", "--out", "a").returncode == 0
