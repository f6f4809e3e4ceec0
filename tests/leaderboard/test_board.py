"""Boards: first stages, candidates that do not fit, texts, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rerank.errors import DataError, MissingResourceError, UnknownNameError, UsageError
from rerank.evaluation import compare_runs, evaluate_run
from rerank.io.run_files import read_run, write_qrels, write_run
from rerank.leaderboard.board import make_board
from rerank.leaderboard.board_config import read_board_config
from tests.leaderboard.made import HOSTILE, board, card, files, judged, noisy, plan, run_folder
from tests.raising import raises


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return files(tmp_path)


def test_first_stages_of_run_folders_are_on_the_board_once(folder: Path) -> None:
    made = board(folder)
    names = [entry.name for entry in made.entries]
    assert names[-1] == "bm25, first 25"
    assert len(names) == 6
    assert made.before[names.index("good")] == made.before[names.index("better")] == 5
    assert made.before[names.index("plain")] is None
    assert made.entries[5].card.group == "first stage"


def test_the_numbers_are_those_of_eval_and_compare(folder: Path) -> None:
    made = board(folder, measures=("nDCG@10", "AP"), relevant=2)
    plain = read_run(folder / "runs" / "plain.trec", name="plain")
    at = [entry.name for entry in made.entries].index("plain")
    mean = evaluate_run(judged(), plain, ["AP"], relevant=2).mean("AP(rel=2)")
    assert made.tables[1].measure == "AP(rel=2)"
    assert made.tables[1].runs[at].mean == pytest.approx(mean)
    runs = [entry.run for entry in made.entries]
    for run, entry in zip(runs, made.entries, strict=True):
        run.name = entry.name
    found = compare_runs(judged(), runs, "nDCG@10")
    assert made.tables[0].significant == found.decisions.significant.sum()
    assert made.tables[0].pairs == 15


def test_a_reranker_that_changed_nothing_does_not_take_its_first_stages_place(tmp_path: Path) -> None:
    qrels, first = judged(), noisy(judged(), 1, 1)
    write_qrels(qrels, tmp_path / "qrels.txt")
    run_folder(tmp_path / "runs" / "idle", first, first)
    run_folder(tmp_path / "runs" / "works", noisy(qrels, 0.1, 2), first)
    made = board(tmp_path)
    assert [entry.name for entry in made.entries] == ["idle", "works", "bm25, first 25"]
    assert made.before == (2, 2, None)
    write_run(first, tmp_path / "runs" / "lists.trec")  # a run file that is no reranker is the first stage
    made = board(tmp_path)
    assert [entry.name for entry in made.entries] == ["idle", "lists", "works"]
    assert made.before == (1, None, 1)
    card(tmp_path / "runs" / "lists.toml", method="pointwise")
    assert board(tmp_path).entries[-1].name == "bm25, first 25"
    card(tmp_path / "runs" / "lists.toml", method="pointwise", before="bm25, first 25")
    made = board(tmp_path)
    assert [entry.name for entry in made.entries] == ["idle", "lists", "works", "bm25, first 25"]
    assert made.before == (3, 3, 3, None)


def test_different_first_stages_are_told(folder: Path) -> None:
    assert "2 different first stages (unknown for 2 runs)" in board(folder).notes[0]


def test_a_run_that_ranks_other_documents_than_its_first_stage_is_told(folder: Path) -> None:
    qrels = judged()
    write_run(noisy(qrels, 1, 7, depth=10), folder / "runs" / "cut.trec")
    card(folder / "runs" / "cut.toml", before="good", depth=20)
    card(folder / "runs" / "short.toml", before="cut", depth=5)
    notes = board(folder).notes
    assert any(note.startswith("'cut' lacks documents of 'good'") and "30 queries" in note for note in notes)
    assert any(note.startswith("'short'") and "'cut'" in note for note in notes)


def test_one_declared_first_stage_with_other_documents_is_told(folder: Path) -> None:
    for name, depth in (("a", 25), ("b", 25), ("c", 24)):
        write_run(noisy(judged(), 1, 7, depth=depth), folder / "runs" / f"{name}.trec")
        card(folder / "runs" / f"{name}.toml", first_stage="splade", depth=25)
    told = [note for note in board(folder).notes if "'splade'" in note]
    assert told == [
        "Of 3 runs that declare the first stage 'splade' at depth 25, 1 ranks different documents from the others, "
        "in up to 30 queries: 'c'."
    ]


def test_texts_of_queries_and_documents(folder: Path) -> None:
    (folder / "topics.tsv").write_text("q0\tfirst question\n")
    docs = [{"_id": "d0-0", "text": "body", "title": "head"}, {"_id": "zz", "text": "of no list"}]
    (folder / "docs.jsonl").write_text("\n".join(map(json.dumps, docs)))
    made = board(folder, queries="topics.tsv", texts="jsonl:docs=" + str(folder / "docs.jsonl"))
    assert made.queries["q0"] == "first question"
    assert made.queries["q3"] == HOSTILE
    assert set(made.docs) == {"d0-0"}


def test_what_is_refused(folder: Path) -> None:
    with raises(UnknownNameError, "nDGC"):
        board(folder, measures=("nDGC@10",))
    with pytest.raises(MissingResourceError):
        board(folder, qrels="missing.txt")
    with raises(DataError, plan().title):
        make_board(plan(), home=folder)
    with raises(DataError, "'plain'"):
        make_board(
            plan(runs=({"files": "runs/plain.trec"},)), home=folder, runs=[folder / "runs", folder / "runs/plain.trec"]
        )
    card(folder / "runs" / "short.toml", before="shrt")
    with raises(UnknownNameError, "'short'", "'shrt'"):
        board(folder)
    card(folder / "runs" / "short.toml", before="short")
    with raises(UsageError, "'short'", "before"):
        board(folder)


def test_only_an_unfinished_run(tmp_path: Path) -> None:
    files(tmp_path)
    first = noisy(judged(), 1, 1)
    run_folder(tmp_path / "half", first, first, summary={"complete": False})
    with raises(DataError, "'half'"):
        make_board(plan(), home=tmp_path, runs=[tmp_path / "half"])


def test_a_plan_is_read(folder: Path) -> None:
    text = 'title = "T"\nqrels = "qrels.txt"\n[[runs]]\nfiles = "runs/*.trec"\ngroup = "official"\ntokens = 0\n'
    (folder / "board.toml").write_text(text)
    read = read_board_config(folder / "board.toml")
    made = make_board(read, home=folder)
    assert [(e.name, e.card.group, e.card.tokens, e.card.model) for e in made.entries] == [("plain", "official", 0, "")]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ('title = "T"', "qrels"),
        ('title = "T"\nqrels = "q"\nmeasure = "x"', "'measures'"),
        ('title = "T"\nqrels = "q"\n[[runs]]\nfile = "x"', "'files'"),
        ('title = "T"\nqrels = "q"\nalpha = 2', "alpha"),
        ('title = "T"\nqrels = "q"\nruns = 3', "runs"),
    ],
)
def test_a_wrong_plan(text: str, fault: str, tmp_path: Path) -> None:
    (tmp_path / "b.toml").write_text(text)
    with raises(DataError, fault):
        read_board_config(tmp_path / "b.toml")


def test_a_pattern_without_files(tmp_path: Path) -> None:
    files(tmp_path)
    with raises(MissingResourceError, "nowhere/*.gz", "--data"):
        make_board(plan(runs=({"files": "nowhere/*.gz"},)), home=tmp_path)
