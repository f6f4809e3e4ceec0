"""`rerank methods`, `rerank cache` and `rerank doctor`."""

from __future__ import annotations

import json
import os
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from rerank.prompts import load_prompt
from tests.cli.conftest import Cli


def test_the_cache_is_filled_listed_and_cleaned(cli: Cli, lists: tuple[str, ...], tmp_path: Path) -> None:
    place = tmp_path / "cache" / "listrank" / "calls" / "calls.sqlite"
    assert json.loads(cli("cache", "--format", "json").stdout) == {"path": str(place), "models": []}
    cli("run", *lists, "--out", "a", "--call-cache")
    other = json.loads(cli("run", *lists, "--out", "b", "--call-cache", "--format", "json").stdout)
    assert other["reused_calls"] == 4
    alone = json.loads(cli("run", *lists, "--out", "c", "--no-call-cache", "--format", "json").stdout)
    assert alone["reused_calls"] == 0

    done = cli("cache", "list", "--format", "json")
    (row,) = json.loads(done.stdout)["models"]
    assert (row["model"], row["calls"]) == ("fake:perfect", 4)
    assert row["tokens_in"] == other["tokens_in"]
    assert json.loads(cli("cache", "--format", "jsonl").stdout) == row
    text = cli("cache")
    assert text.stdout.splitlines()[0].split("\t") == ["model", "calls", "tokens_in", "tokens_out", "latest"]
    assert text.stderr == f"{place}\n"

    refused = cli("cache", "clean", stdin=b"n\n")
    assert refused.returncode != 0
    assert json.loads(cli("cache", "--format", "json").stdout)["models"] == [row]
    cleaned = cli("cache", "clean", "--yes")
    assert (cleaned.returncode, cleaned.stdout, cleaned.stderr) == (0, "", "4 calls removed\n")
    assert json.loads(cli("cache", "--format", "json").stdout)["models"] == []


@pytest.mark.parametrize("damage", ["bytes", "cut off", "pipe", "other tables"])
def test_a_damaged_cache_is_cleaned(cli: Cli, lists: tuple[str, ...], tmp_path: Path, damage: str) -> None:
    place = tmp_path / "cache" / "listrank" / "calls" / "calls.sqlite"
    cli("run", *lists, "--out", "a", "--call-cache")
    content = place.read_bytes()
    place.unlink()
    if damage == "pipe":
        os.mkfifo(place)
    elif damage == "other tables":
        with closing(sqlite3.connect(place)) as database:
            database.execute("CREATE TABLE calls (x)")
    else:
        place.write_bytes(content[:2000] if damage == "cut off" else b"\0" * 50 + content[50:])
    done = cli("cache")
    assert done.returncode in (5, 6)
    assert "rerank cache clean" in done.stderr or damage in ("pipe", "other tables")
    assert cli("cache", "clean", stdin=b"n\n").returncode != 0
    assert os.path.lexists(place)
    cleaned = cli("cache", "clean", "--yes")
    assert (cleaned.returncode, cleaned.stdout) == (0, "")
    assert "removed, with all its calls" in cleaned.stderr
    assert cli("run", *lists, "--out", "b", "--call-cache").returncode == 0


def test_the_question_before_cleaning_is_no_data(cli: Cli) -> None:
    done = cli("cache", "clean", stdin=b"y\n")
    assert (done.returncode, done.stdout.strip()) == (0, "")
    assert "Remove 0 calls from" in done.stderr
    assert "0 calls removed" in done.stderr


def test_a_cache_folder_that_cannot_be(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    done = cli("cache")
    assert (done.returncode, done.stdout) == (6, "")
    assert "/cache" in done.stderr


def test_a_cache_file_that_is_none(cli: Cli, tmp_path: Path) -> None:
    folder = tmp_path / "cache" / "listrank" / "calls"
    folder.mkdir(parents=True)
    (folder / "calls.sqlite").write_text("this is no database, but long enough to be asked about it " * 20)
    done = cli("cache")
    assert (done.returncode, done.stdout) == (5, "")
    assert "is not a call log" in done.stderr


def test_doctor_fails_where_the_base_is_broken(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    row = {"check": "scipy", "state": "broken", "found": "", "remedy": "pip install it"}
    monkeypatch.setattr("rerank.cli.tools.examine_installation", lambda: [row])
    done = cli("doctor")
    assert done.returncode == 3
    assert "scipy\tbroken" in done.stdout
    assert all(value in done.stderr for value in ("scipy", "pip install"))


def test_what_show_prints_is_a_prompt(cli: Cli) -> None:
    done = cli("prompts", "show", "listwise")
    assert done.stderr == ""
    Path("mine.yaml").write_text(done.stdout)
    assert load_prompt("mine.yaml").digest == load_prompt("listwise").digest
    assert cli("prompts", "show", "mine.yaml").stdout == done.stdout
