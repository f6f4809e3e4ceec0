"""Boards of recorded scores: the same tables without runs, further runs, and files that are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rerank.errors import DataError, MissingResourceError, UsageError
from rerank.io.run_files import read_qrels, write_qrels, write_run
from rerank.leaderboard.board import Board, make_board
from rerank.leaderboard.entries import FORMAT, read_recorded_scores
from rerank.leaderboard.exports import board_as_csv, board_as_recorded_scores
from rerank.leaderboard.site import render_site
from tests.leaderboard.made import board, card, files, judged, noisy, plan
from tests.raising import raises

MEASURES = ("nDCG@10", "AP(rel=2)")


@pytest.fixture
def made(tmp_path: Path) -> Board:
    found = board(files(tmp_path), measures=MEASURES)
    (tmp_path / "recorded").mkdir()
    (tmp_path / "recorded" / "scores.json").write_text(board_as_recorded_scores(found), encoding="utf-8")
    return found


def recorded(folder: Path, runs: tuple[str, ...] = (), **changed: Any) -> Board:
    config = plan(**{"qrels": "", "scores": "scores.json", "measures": MEASURES, **changed})
    return make_board(config, home=folder / "recorded", data=folder, runs=[folder / run for run in runs])


def test_the_board_of_the_scores_is_the_board_of_the_runs(made: Board, tmp_path: Path) -> None:
    found = recorded(tmp_path)
    assert found.to_dict() == made.to_dict()
    for table, other in zip(found.tables, made.tables, strict=True):
        rows = [line.split(",") for line in board_as_csv(made, other).splitlines()]
        seconds = rows[0].index("seconds_per_query")
        without = [
            ",".join([*row[:seconds], "seconds_per_query" if not at else "", *row[seconds + 1 :]])
            for at, row in enumerate(rows)
        ]
        assert board_as_csv(found, table).splitlines() == without


def test_the_file_has_no_documents_and_no_texts(made: Board, tmp_path: Path) -> None:
    text = (tmp_path / "recorded" / "scores.json").read_text()
    assert not any(doc in text for grades in judged().values() for doc in grades)
    assert "question q" not in text
    content = render_site([recorded(tmp_path)], "Scores")
    assert sum(name.startswith("data/") for name in content) == 1
    assert made.has_lists
    assert not recorded(tmp_path).has_lists


def test_runs_join_with_the_judgments(made: Board, tmp_path: Path) -> None:
    write_run(noisy(judged(), 0.2, 9), tmp_path / "mine.trec")
    card(tmp_path / "mine.toml", before="bm25, first 25", depth=25)
    found = recorded(tmp_path, ("mine.trec",), qrels="qrels.txt")
    assert len(found.entries) == len(made.entries) + 1
    assert found.entries[-1].name == "mine"
    gain = found.tables[0].runs[-1].gain
    assert gain is not None
    assert found.entries[gain.before].name == "bm25, first 25"
    assert {name: found.to_dict()["tables"][0]["means"][name] for name in ("good", "plain")} == {
        name: made.to_dict()["tables"][0]["means"][name] for name in ("good", "plain")
    }
    with raises(UsageError, "'mine'", "--qrels"):
        recorded(tmp_path, ("mine.trec",))


def test_a_run_folder_over_recorded_candidates_gets_them_as_first_stage(made: Board, tmp_path: Path) -> None:
    (tmp_path / "again").mkdir()
    (tmp_path / "runs" / "good").rename(tmp_path / "again" / "mine")
    found = recorded(tmp_path, ("again/mine",), qrels="qrels.txt")
    assert found.before[-1] == [entry.name for entry in found.entries].index("bm25, first 25")
    at = [entry.name for entry in made.entries].index("good")
    assert found.identical[-1] == (at,)


def test_other_judgments_are_refused(made: Board, tmp_path: Path) -> None:
    grades = {query: dict(row) for query, row in read_qrels(tmp_path / "qrels.txt").items()}
    grades["q0"]["d0-0"] = 3 - grades["q0"]["d0-0"]
    write_qrels(type(judged())(grades), tmp_path / "other.txt")
    write_run(noisy(judged(), 0.2, 9), tmp_path / "mine.trec")
    with raises(DataError, "'other.txt'", made.qrels_digest):
        recorded(tmp_path, ("mine.trec",), qrels="other.txt")


def test_a_measure_that_was_not_recorded(made: Board, tmp_path: Path) -> None:
    with raises(UsageError, "P@5", "nDCG@10"):
        recorded(tmp_path, measures=("P@5",))


def test_two_runs_of_one_name(made: Board, tmp_path: Path) -> None:
    with raises(DataError, "'plain'"):
        recorded(tmp_path, ("runs/plain.trec",), qrels="qrels.txt")


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"format": "listrank board scores 2"}, FORMAT),
        ({"topics": ["q0"]}, "1 scores"),
        ({"more": 1}, "more"),
        ({"relevant": "x"}, "relevant"),
    ],
)
def test_files_that_are_refused(change: dict[str, Any], fault: str, made: Board, tmp_path: Path) -> None:
    path = tmp_path / "recorded" / "scores.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with raises(DataError, "scores.json", fault):
        read_recorded_scores(path)


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(MissingResourceError):
        read_recorded_scores(tmp_path / "scores.json")
    (tmp_path / "scores.json").write_text("{")
    with raises(DataError, "scores.json"):
        read_recorded_scores(tmp_path / "scores.json")
