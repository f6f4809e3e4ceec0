"""`rerank leaderboard build`, `open`, `check` and `export`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer

from tests.cli.conftest import Cli
from tests.leaderboard.made import files

EXPORT = (
    "leaderboard",
    "export",
    "runs/plain.trec",
    "--collection",
    "c",
    "--team",
    "t",
    "--repository",
    "r",
    "--out",
    "x",
)
PUBLISHED = str(Path(__file__).resolve().parents[2] / "eval" / "leaderboard" / "dl21.toml")
BUILD = ("leaderboard", "build", "runs", "--qrels", "qrels.txt")


@pytest.fixture(autouse=True)
def board(tmp_path: Path) -> Path:
    return files(tmp_path)


def test_build(cli: Cli, tmp_path: Path) -> None:
    options = ("-m", "nDCG@10", "-m", "P@5", "--relevant", "2", "--correction", "bh", "--title", "Mine")
    done = cli(*BUILD, *options, "--out", "site", "--format", "json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["site"] == "site/index.html"
    (made,) = found["boards"]
    assert (made["title"], made["runs"], made["queries"]) == ("Mine", 6, 30)
    assert [table["measure"] for table in made["tables"]] == ["nDCG@10", "P(rel=2)@5"]
    assert "Benjamini-Hochberg" in (tmp_path / "site" / "index.html").read_text()


def test_build_from_a_board_file(cli: Cli, tmp_path: Path) -> None:
    text = 'title = "T"\nqrels = "qrels.txt"\n[[runs]]\nfiles = "runs/*.trec"\n'
    (tmp_path / "boards").mkdir()
    (tmp_path / "boards" / "t.toml").write_text(text)
    (tmp_path / "boards" / "u.toml").write_text(text.replace('"T"', '"U"'))
    two = ("--board", "boards/t.toml", "--board", "boards/u.toml", "--data", ".")
    done = cli("leaderboard", "build", *two, "--out", "site", "--format", "jsonl")
    assert done.returncode == 0, done.stderr
    assert [json.loads(line)["title"] for line in done.stdout.splitlines()] == ["T", "U"]
    more = cli("leaderboard", "build", "runs/good", *two[:2], "--data", ".", "--out", "one", "--format", "json")
    assert json.loads(more.stdout)["boards"][0]["runs"] == 3
    assert cli("leaderboard", "build", "runs", *two, "--out", "site").returncode == 2


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ((*BUILD, "--out", "runs"), 2, "'runs'"),
        ((*BUILD[:3], "--qrels", "", "--out", "site"), 2, "--qrels is empty"),
        ((*BUILD, "nowhere", "--out", "site"), 4, "nowhere"),
        ((*EXPORT, "--qrels", "qrels.txt"), 2, "--task"),
    ],
)
def test_wrong_input(words: tuple[str, ...], code: int, said: str, cli: Cli, tmp_path: Path) -> None:
    done = cli(*words)
    assert done.returncode == code
    assert said in done.stderr
    assert not (tmp_path / "site" / "index.html").exists()


def test_published_boards_need_no_other_file(cli: Cli, tmp_path: Path) -> None:
    done = cli("leaderboard", "build", "--board", PUBLISHED, "--out", "site", "--format", "json")
    assert done.returncode == 0, done.stderr
    (made,) = json.loads(done.stdout)["boards"]
    assert (made["runs"], made["queries"]) == (4, 53)
    assert len(list((tmp_path / "site" / "data").rglob("*.js"))) == 1


def test_open(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    monkeypatch.setattr(typer, "launch", lambda address: opened.append(address))
    cli(*BUILD, "--out", "site")
    done = cli("leaderboard", "open", "site")
    assert done.returncode == 0, done.stderr
    assert opened == [(tmp_path / "site" / "index.html").resolve().as_uri()]
    assert done.stdout.strip() == opened[0]
