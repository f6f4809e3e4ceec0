"""Gains over first stages: their own family, against SciPy and statsmodels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import ttest_rel
from statsmodels.stats.multitest import multipletests

from rerank.evaluation import ComparisonOptions, Scores
from rerank.io.run_files import write_qrels, write_run
from rerank.leaderboard.board import Board, make_board
from rerank.leaderboard.board_config import BoardConfig
from rerank.leaderboard.first_stages import declared_selectors
from rerank.leaderboard.standings import rank_runs
from rerank.types import Run
from tests.leaderboard.made import card, judged, noisy, run_folder
from tests.leaderboard.test_standings import made

BEFORE = (4, 4, 3, None, None)


def columns(scores: list[Scores]) -> list[np.ndarray]:
    return [np.array(list(entry.values["nDCG@10"].values())) for entry in scores]


@pytest.mark.parametrize(("correction", "name"), [("holm", "holm"), ("bh", "fdr_bh"), ("bonferroni", "bonferroni")])
def test_gains_are_corrected_together(correction: str, name: str) -> None:
    scores = made()
    values = columns(scores)
    found = rank_runs(scores, "nDCG@10", options=ComparisonOptions(correction=correction), before=BEFORE)
    tests = [ttest_rel(values[run], values[first]) for run, first in enumerate(BEFORE) if first is not None]
    adjusted = multipletests([test.pvalue for test in tests], method=name)[1]
    gains = [run.gain for run in found.runs if run.gain]
    assert [gain.p for gain in gains] == pytest.approx(adjusted)
    assert [gain.significant for gain in gains] == [p <= 0.05 for p in adjusted]
    for gain, test, run in zip(gains, tests, range(3), strict=True):
        interval = test.confidence_interval(0.95)
        assert (gain.low, gain.high) == pytest.approx((interval.low, interval.high))
        assert gain.difference == pytest.approx(values[run].mean() - values[gain.before].mean())
    assert [run.gain is None for run in found.runs] == [False, False, False, True, True]
    assert "3 gains" in found.gain_rule


def test_a_test_of_all_pairs_together_is_not_corrected_again() -> None:
    scores = made()
    found = rank_runs(scores, "nDCG@10", options=ComparisonOptions(test="tukey-anova"), before=BEFORE)
    assert found.decisions is not None
    p = found.decisions.p_values()[0]
    gain = found.runs[0].gain
    assert gain is not None
    assert gain.p == pytest.approx(p[3])  # the pair (0, 4)


def test_without_first_stages_there_are_no_gains() -> None:
    found = rank_runs(made(), "nDCG@10", before=(None,) * 5)
    assert found.gain_rule == ""
    assert all(run.gain is None for run in found.runs)


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
