"""TIREx submissions: the fields that tira requires, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from rerank.errors import DataError, UsageError
from rerank.io.run_files import read_run
from rerank.leaderboard.entries import RecordedScores, find_runs, runs_of_record
from rerank.leaderboard.exports import board_as_recorded_scores, check_folders, folder_of_run, write_tirex
from tests.leaderboard.made import HOSTILE, board, files
from tests.raising import raises

REQUIRED = {"team": "t", "collection": "c", "repository": "https://example.org"}


def test_the_run_and_the_required_fields(tmp_path: Path) -> None:
    entries, _ = find_runs([files(tmp_path) / "runs"])
    for entry in entries:
        folder = write_tirex(entry, tmp_path / "out", **REQUIRED)
        assert read_run(folder / "run.txt")["q4"].doc_ids == entry.run["q4"].doc_ids
        told = yaml.safe_load((folder / "ir-metadata.yml").read_text(encoding="utf-8"))
        assert told["actor"]["team"] == "t"
        assert told["implementation"]["source"]["repository"] == "https://example.org"
        assert told["data"]["test collection"]["name"] == "c"
        assert told["method"]["name"] == entry.name
        assert told["method"]["description"]
    assert len(list((tmp_path / "out").iterdir())) == len(entries)
    good = yaml.safe_load((tmp_path / "out" / "good" / "ir-metadata.yml").read_text())
    assert [stage.get("reranks") for stage in good["method"]["retrieval"]] == [None, "bm25"]


def test_names_of_folders() -> None:
    assert folder_of_run(f"../<b>{HOSTILE}</b>") == "b-script-alert-x-script-b"
    assert folder_of_run("..") == "run"


def test_no_run_overwrites_another_one() -> None:
    check_folders(["My run", "my run", "My_run"])
    with raises(DataError, "'My run' and 'My-run'"):
        check_folders(["My run", "other", "My-run"])


def test_what_is_refused(tmp_path: Path) -> None:
    made = board(files(tmp_path))
    record = RecordedScores.model_validate_json(board_as_recorded_scores(made))
    with raises(UsageError, record.runs[0].card.name):
        write_tirex(runs_of_record(record, tmp_path)[0], tmp_path / "out", **REQUIRED)
    for key, option in (("team", "--team"), ("collection", "--collection"), ("repository", "--repository")):
        with raises(UsageError, option):
            write_tirex(made.entries[0], tmp_path / "out", **{**REQUIRED, key: " "})
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["good", "plain"])
def test_the_same_run_again_gives_the_same_files(name: str, tmp_path: Path) -> None:
    entries, _ = find_runs([files(tmp_path) / "runs"])
    (entry,) = (entry for entry in entries if entry.name == name)
    folder = write_tirex(entry, tmp_path / "out", **REQUIRED)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    write_tirex(entry, tmp_path / "out", **REQUIRED)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
