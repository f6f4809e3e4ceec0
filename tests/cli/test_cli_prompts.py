"""`rerank prompts`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rerank.prompts import load_prompt
from tests.cli.conftest import Cli

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
