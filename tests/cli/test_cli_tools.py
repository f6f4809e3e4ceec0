"""`rerank methods`, `rerank cache` and `rerank doctor`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rerank.prompts import load_prompt
from tests.cli.conftest import Cli


def test_methods_in_all_formats(cli: Cli) -> None:
    rows = json.loads(cli("methods", "--format", "json").stdout)
    calls = {row["name"]: row["calls_per_100"] for row in rows}
    assert calls["fullrank"] == 1
    assert calls["sliding"] == 9
    assert [json.loads(line) for line in cli("methods", "--format", "jsonl").stdout.splitlines()] == rows
    head, *lines = cli("methods").stdout.splitlines()
    assert head.split("\t") == ["name", "strategy", "judge", "calls per 100", "backends", "paper"]
    assert len(lines) == len(rows)


def test_methods_of_training_in_all_formats(cli: Cli) -> None:
    rows = json.loads(cli("methods", "--training", "--format", "json").stdout)
    of = {row["name"]: row for row in rows}
    assert (of["galore"]["kind"], of["galore"]["status"], of["galore"]["reason"]) == ("optimizer", "available", "")
    assert of["soka"]["status"] == "out-of-scope"
    assert "lokr" in of["soka"]["reason"]
    lines = cli("methods", "--training", "--format", "jsonl").stdout.splitlines()
    assert [json.loads(line) for line in lines] == rows
    head, *lines = cli("methods", "--training").stdout.splitlines()
    assert head.split("\t") == ["name", "kind", "status", "stability", "summary", "paper", "differs", "reason"]
    assert [line.split("\t")[0] for line in lines] == [row["name"] for row in rows]


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


def test_doctor_in_all_formats(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"check": "python", "state": "ok", "found": "3.11", "remedy": ""}]
    monkeypatch.setattr("rerank.cli.tools.examine_installation", lambda: rows)
    assert json.loads(cli("doctor", "--format", "json").stdout) == {"checks": rows}
    assert json.loads(cli("doctor", "--format", "jsonl").stdout) == rows[0]
    done = cli("doctor")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == ["check\tstate\tfound\tremedy", "python\tok\t3.11\t"]


def test_doctor_fails_where_the_base_is_broken(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    row = {"check": "scipy", "state": "broken", "found": "", "remedy": "pip install it"}
    monkeypatch.setattr("rerank.cli.tools.examine_installation", lambda: [row])
    done = cli("doctor")
    assert done.returncode == 3
    assert "scipy\tbroken" in done.stdout
    assert all(value in done.stderr for value in ("scipy", "pip install"))


RENDER = ("prompts", "render", "listwise", "--query", "why", "--passage", "first text", "--passage", "second text")


def test_list_in_all_formats(cli: Cli) -> None:
    for words in (("prompts",), ("prompts", "list")):
        rows = json.loads(cli(*words, "--format", "json").stdout)["prompts"]
        assert {"name": "listwise", "digest": load_prompt("listwise").digest[:12]} in rows
        assert [json.loads(line) for line in cli(*words, "--format", "jsonl").stdout.splitlines()] == rows
    assert cli("prompts").stdout.splitlines()[0] == "name\tdigest"


def test_what_show_prints_is_a_prompt(cli: Cli) -> None:
    done = cli("prompts", "show", "listwise")
    assert done.stderr == ""
    Path("mine.yaml").write_text(done.stdout)
    assert load_prompt("mine.yaml").digest == load_prompt("listwise").digest
    assert cli("prompts", "show", "mine.yaml").stdout == done.stdout


def test_render_in_all_formats(cli: Cli) -> None:
    messages = json.loads(cli(*RENDER, "--format", "json").stdout)["messages"]
    assert [message["role"] for message in messages] == ["system", "user"]
    assert "[1] first text" in messages[1]["content"]
    assert "[2] second text" in messages[1]["content"]
    assert [json.loads(line) for line in cli(*RENDER, "--format", "jsonl").stdout.splitlines()] == messages
    text = cli(*RENDER).stdout
    assert text.startswith("--- system\n")
    assert "--- user\n" in text


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("show", "listwize"), 2, "Did you mean 'listwise'"),
        (("show", "nowhere/x.yaml"), 4, "nowhere/x.yaml"),
        (("render", "listwise", "--query", "q"), 2, "--passage"),
        (("render", "listwise", "--passage", "a"), 2, "--query"),
        (("shwo", "listwise"), 2, "No such command 'shwo'"),
    ],
)
def test_wrong_arguments(cli: Cli, arguments: tuple[str, ...], code: int, message: str) -> None:
    done = cli("prompts", *arguments)
    assert (done.returncode, done.stdout) == (code, "")
    assert message in done.stderr


def test_a_prompt_that_is_no_prompt(cli: Cli) -> None:
    Path("bad.yaml").write_text("body: [unclosed")
    done = cli("prompts", "render", "bad.yaml", "--query", "q", "--passage", "a")
    assert (done.returncode, done.stdout) == (5, "")
    assert all(value in done.stderr for value in ("'bad'", "YAML"))
