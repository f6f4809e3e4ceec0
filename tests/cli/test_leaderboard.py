"""`rerank leaderboard build`, `open`, `check` and `export`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer

from rerank.io.file_hashes import file_hash
from tests.cli.conftest import Cli
from tests.leaderboard.made import card, files

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
    """Runs and judgments in the working folder."""
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


def test_build_for_people(cli: Cli) -> None:
    done = cli(*BUILD, "--out", "site")
    assert done.returncode == 0, done.stderr
    assert "better\t" in done.stdout
    assert "of 15 pairs differ significantly" in done.stderr


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
        (("leaderboard", "build", "runs", "--out", "site"), 2, "--qrels is missing"),
        (("leaderboard", "build", "--qrels", "qrels.txt", "--out", "site"), 2, "No runs"),
        ((*BUILD, "--out", "runs"), 2, "'runs'"),
        ((*BUILD, "--out", "site", "-m", "nDGC@10"), 2, "nDGC"),
        ((*BUILD, "--out", "site", "--test", "z"), 2, "Unknown test"),
        ((*BUILD, "--out", "site", "--alpha", "7"), 2, "alpha"),
        ((*BUILD, "nowhere", "--out", "site"), 4, "nowhere"),
        ((*EXPORT, "--task", "TRECDL2019"), 2, "--qrels"),
        ((*EXPORT, "--qrels", "qrels.txt"), 2, "--task"),
        (("leaderboard", "open", "nowhere"), 4, "rerank leaderboard build"),
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


def test_export(cli: Cli, tmp_path: Path) -> None:
    done = cli(*EXPORT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["x/tirex/plain"]
    assert sorted(path.name for path in (tmp_path / "x" / "tirex" / "plain").iterdir()) == [
        "ir-metadata.yml",
        "run.txt",
    ]


def test_open(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    monkeypatch.setattr(typer, "launch", lambda address: opened.append(address))
    cli(*BUILD, "--out", "site")
    done = cli("leaderboard", "open", "site")
    assert done.returncode == 0, done.stderr
    assert opened == [(tmp_path / "site" / "index.html").resolve().as_uri()]
    assert done.stdout.strip() == opened[0]


def test_check(cli: Cli, tmp_path: Path) -> None:
    told = {"name": "p", "first_stage": "bm25", "depth": 25}
    card(tmp_path / "runs" / "plain.toml", **told, sha256=file_hash(tmp_path / "runs" / "plain.trec"))
    done = cli("leaderboard", "check", "runs/plain.toml", "--qrels", "qrels.txt")
    assert done.returncode == 0, done.stderr
    assert "30 queries" in done.stdout
    card(tmp_path / "runs" / "plain.toml", **{**told, "depth": 5})
    done = cli("leaderboard", "check", "runs/plain.toml", "--qrels", "qrels.txt", "--format", "json")
    assert done.returncode == 5
    found = json.loads(done.stdout)
    assert found["ok"] is False
    assert len(found["problems"]) == 1 + 6  # no hash; five deep lists and how many more there are
    assert "7 problems" in done.stderr
