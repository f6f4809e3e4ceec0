"""First stages of one name and different lists are told apart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rerank.io.run_files import write_qrels, write_run
from rerank.leaderboard.board import Board, make_board
from rerank.leaderboard.board_config import BoardConfig
from rerank.leaderboard.first_stages import declared_selectors
from rerank.types import Run
from tests.leaderboard.made import card, judged, noisy, run_folder

BM25 = "requests:/data/lists/BM25/dl19.json.gz,qrels=/data/q.txt"
SPLADE = "requests:/data/lists/SPLADE/dl19.json.gz,qrels=/data/q.txt"


def folder(path: Path, first: Run, collection: str, **spec: Any) -> Path:
    values = {"first_stage": "candidates", "collection": collection, **spec}
    run = Run((r.top(len(r)) for r in first.values()), name="run")
    return run_folder(path, run, first, spec=values, qrels=judged())


def board(home: Path) -> Board:
    write_qrels(judged(), home / "qrels.txt")
    return make_board(BoardConfig(title="T", qrels="qrels.txt"), home=home, runs=[home / "runs"])


def stages(made: Board) -> dict[str, str]:
    return {entry.name: entry.card.first_stage for entry in made.entries}


def test_candidates_of_two_files_have_two_labels(tmp_path: Path) -> None:
    first, other = noisy(judged(), 1, 1), noisy(judged(), 1, 2)
    folder(tmp_path / "runs" / "a", first, BM25)
    folder(tmp_path / "runs" / "b", first.top(10), BM25, depth=10)
    folder(tmp_path / "runs" / "c", other, SPLADE)
    made = board(tmp_path)
    bm25, splade = "candidates of BM25/dl19", "candidates of SPLADE/dl19"
    assert stages(made) == {
        **{"a": bm25, "b": bm25, "c": splade},
        **{f"{bm25}, first 25": bm25, f"{bm25}, first 10": bm25, f"{splade}, first 25": splade},
    }
    assert declared_selectors(made.entries) == [bm25, splade], "the filter takes them together"
    assert "2 different first stages" in made.notes[0]
    assert any("3 runs have the first stage 'candidates'" in note and repr(splade) in note for note in made.notes)


def test_one_set_of_lists_keeps_its_label(tmp_path: Path) -> None:
    first = noisy(judged(), 1, 1)
    folder(tmp_path / "runs" / "a", first, BM25)
    folder(tmp_path / "runs" / "b", first, SPLADE)  # the same lists in another file
    made = board(tmp_path)
    assert set(stages(made).values()) == {"candidates"}
    assert not any("call their first stage" in note for note in made.notes)


def test_one_file_that_changed_is_told_apart_and_a_card_keeps_its_word(tmp_path: Path) -> None:
    folder(tmp_path / "runs" / "a", noisy(judged(), 1, 1), BM25)
    folder(tmp_path / "runs" / "b", noisy(judged(), 1, 2), BM25)
    told = folder(tmp_path / "runs" / "c", noisy(judged(), 1, 3), BM25)
    card(told / "card.toml", first_stage="BM25")
    found = stages(board(tmp_path))
    assert found["a"].startswith("candidates of dl19 #")
    assert found["b"].startswith("candidates of dl19 #")
    assert found["a"] != found["b"]
    assert found["c"] == "BM25"


def test_lists_that_are_on_the_board_lend_their_label(tmp_path: Path) -> None:
    first = noisy(judged(), 1, 1)
    folder(tmp_path / "runs" / "a", first.top(10), BM25, depth=10)
    folder(tmp_path / "runs" / "b", noisy(judged(), 1, 2), SPLADE)
    write_run(first, tmp_path / "runs" / "lists.trec")
    card(tmp_path / "runs" / "lists.toml", group="first stage", first_stage="BM25")
    made = board(tmp_path)
    found = stages(made)
    assert (found["a"], found["b"], found["lists"]) == ("BM25", "candidates", "BM25")
    assert declared_selectors(made.entries) == ["BM25", "candidates"]
