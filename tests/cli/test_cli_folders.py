"""`rerank replay`, `rerank verify` and `rerank parse`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Cli


@pytest.fixture
def folder(cli: Cli, lists: tuple[str, ...]) -> Path:
    cli("run", *lists, "--model", "fake:stutter", "--out", "a")
    return Path("a")


def test_replay_says_what_the_run_said(cli: Cli, folder: Path) -> None:
    def files() -> dict[str, int]:  # less what SQLite lays beside a file that it reads
        return {p.name: p.stat().st_mtime_ns for p in folder.iterdir() if not p.name.startswith("calls.sqlite-")}

    before = files()
    done = cli("replay", folder, "--format", "json")
    assert (done.returncode, done.stderr) == (0, "")
    again, summary = json.loads(done.stdout), json.loads((folder / "summary.json").read_text())
    for key in ("queries", "scores", "first_stage_scores", "windows"):
        assert again[key] == summary[key]
    assert files() == before
    (line,) = cli("replay", folder, "-m", "RR", "-m", "P@1", "--format", "jsonl").stdout.splitlines()
    assert list(json.loads(line)["scores"]) == ["RR", "P@1"]
    lines = cli("replay", folder).stdout.splitlines()
    assert [text.split("\t")[0] for text in lines] == ["first_stage_scores", "", "scores", "", "windows", ""]


def test_replay_without_judgments_has_windows_only(cli: Cli, lists: tuple[str, ...]) -> None:
    cli("run", *lists[:4], "--model", "fake:reversed", "--out", "b")
    assert cli("replay", "b").stdout.splitlines()[0].split("\t")[0] == "windows"


def test_verify_names_what_differs(cli: Cli, folder: Path) -> None:
    text = (folder / "summary.json").read_text()
    (folder / "summary.json").write_text(text.replace('"calls": 4', '"calls": 5'))
    done = cli("verify", folder)
    assert done.returncode == 5
    assert done.stdout.splitlines() == ["file\twhat\tstored\tcomputed", "summary.json\tcalls\t5\t4"]
    assert "summary.json (calls)" in done.stderr
    report = json.loads(cli("verify", folder, "--format", "json").stdout)
    assert report["differences"] == [{"file": "summary.json", "what": "calls", "stored": 5, "computed": 4}]
    (folder / "run.trec").write_text("")
    assert "..." in cli("verify", folder).stdout  # long contents are cut


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("spec.json", "{}", "'hash'"),
        ("spec.json", "{", "'a/spec.json'"),
        ("scores.json", "{}", "'a/scores.json'"),
        ("summary.json", "{}", "a/summary.json' lacks the key 'calls'"),
        ("queries.jsonl", "garbage", "a/queries.jsonl"),
        ("queries.jsonl", '{"x": 1}', "a/queries.jsonl"),
        ("queries.jsonl", "[]", "a/queries.jsonl"),
        ("first_stage.trec", "", "error: "),
        ("calls.sqlite", "no database at all, but long enough to look like one" * 20, "is not a call log"),
    ],
)
def test_a_damaged_folder_is_invalid_data(cli: Cli, folder: Path, name: str, content: str, message: str) -> None:
    (folder / name).write_text(content)
    done = cli("verify", folder)
    assert done.returncode == 5
    assert message in done.stderr


def test_a_damaged_folder_can_be_thrown_away(cli: Cli, lists: tuple[str, ...], folder: Path) -> None:
    (folder / "spec.json").write_text("{}")
    assert cli("run", *lists, "--out", folder).returncode == 5
    assert cli("run", *lists, "--out", folder, "--overwrite").returncode == 0
    (folder / "run.trec").write_text("")
    done = cli("run", *lists, "--out", folder)
    assert (done.returncode, done.stdout) == (5, "")
    assert "rerank verify" in done.stderr


def test_parse_takes_any_bytes_and_a_file(cli: Cli) -> None:
    assert cli("parse", "--count", "2", stdin=b"\xff\xfe\x00[2]\x80 > [1]\xc3").stdout == "[2] > [1]\n"
    Path("reply.txt").write_text("[2] > [1]", encoding="utf-8")
    assert cli("parse", "--count", "2", "reply.txt").stdout == "[2] > [1]\n"
    nothing = json.loads(cli("parse", "--count", "2", "--format", "json").stdout)
    assert (nothing["order"], nothing["missing"], nothing["status"]) == ([], [1, 2], "empty")
    none = json.loads(cli("parse", "--count", "0", "--format", "json", stdin=b"[1]").stdout)
    assert (none["order"], none["foreign"]) == ([], [1])
