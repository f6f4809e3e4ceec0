"""The boards of TREC Deep Learning, from recorded scores and from runs, against NIST's numbers and golden files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rerank.io.run_files import read_qrels
from rerank.leaderboard.board import Board, make_board
from rerank.leaderboard.board_config import read_board_config
from rerank.leaderboard.entries import find_runs
from rerank.leaderboard.exports import board_records
from rerank.leaderboard.site import write_site
from rerank.leaderboard.submission import check_submission

HOME = Path(__file__).resolve().parents[2] / "eval" / "leaderboard"
OURS = "listrank"


def published(year: int) -> Board:
    return make_board(read_board_config(HOME / f"dl{year}.toml"), home=HOME)


@pytest.fixture(scope="module")
def board(shared: Path) -> Board:
    return make_board(read_board_config(HOME / "dl19-runs.toml"), home=HOME, data=shared / "data")


def means(board: Board, table: int = 0) -> dict[str, float]:
    runs = board.tables[table].runs
    return {entry.name: run.mean for entry, run in zip(board.entries, runs, strict=True)}


@pytest.mark.shared
def test_official_runs_score_as_nist_says(board: Board, shared: Path) -> None:
    nist: dict[str, Any] = json.loads((shared / "data/nist_summaries/dl2019.json").read_text())
    official = [entry.name for entry in board.entries if entry.card.group == "official"]
    assert len(official) == 37
    expected = {name: f"{nist[name]['passages-eval']['ndcg_cut_10']:.4f}" for name in official}
    for found in (means(board), means(published(19))):
        assert {name: f"{found[name]:.4f}" for name in official} == expected


@pytest.mark.shared
def test_recorded_scores_give_the_board_of_the_runs(board: Board, tmp_path: Path) -> None:
    recorded = json.loads((HOME / "dl19.scores.json").read_text(encoding="utf-8"))
    recorded["runs"] = [run for run in recorded["runs"] if run["card"]["group"] != OURS]
    (tmp_path / "dl19.scores.json").write_text(json.dumps(recorded), encoding="utf-8")
    plan = read_board_config(HOME / "dl19.toml")
    assert make_board(plan, home=tmp_path).to_dict() == board.to_dict()


@pytest.mark.parametrize("year", [19, 21])
def test_the_published_board_is_the_golden_one(year: int) -> None:
    golden = json.loads((HOME / f"dl{year}.golden.json").read_text(encoding="utf-8"))
    assert published(year).to_dict() == golden


@pytest.mark.parametrize("year", [19, 21])
def test_every_row_names_its_source(year: int) -> None:
    found = published(year)
    assert not found.has_lists
    assert all(entry.card.source for entry in found.entries)
    for row in board_records(found, found.tables[0]):
        assert row["licence"] in ("Apache-2.0", "licence not stated")
    assert all(source.first_stage and source.measured_by and source.table for source in found.plan.published)


def test_our_rows() -> None:
    for year, expected in ((19, {"all-MiniLM-L6-v2": "0.6424"}), (21, {})):
        found = published(year)
        ours = [entry.name for entry in found.entries if entry.card.group == OURS]
        assert len(ours) == 3
        assert all(
            run.gain for entry, run in zip(found.entries, found.tables[0].runs, strict=True) if entry.name in ours
        )
        assert {name: f"{means(found)[name]:.4f}" for name in expected} == expected


@pytest.mark.shared
def test_first_stages(board: Board) -> None:
    found = means(board)
    assert f"{found['BM25']:.4f}" == "0.5058"
    assert f"{found['SPLADE++ EnsembleDistil']:.4f}" == "0.7308"


@pytest.mark.shared
def test_official_runs_alone_give_the_reference(shared: Path) -> None:
    """465 of 666 pairs by t with Benjamini and Hochberg's correction: reference/evaluation.md, section 1.4."""
    plan = read_board_config(HOME / "dl19-runs.toml")
    official = plan.model_copy(update={"runs": plan.runs[:1], "measures": ("nDCG@10",)})
    (table,) = make_board(official, home=HOME, data=shared / "data").tables
    assert (table.pairs, table.significant) == (666, 465)


@pytest.mark.shared
def test_rerankers_stand_with_their_first_stage(board: Board) -> None:
    names = [entry.name for entry in board.entries]
    before = {name: names[b] for name, b in zip(names, board.before, strict=True) if b is not None}
    assert set(before.values()) == {"BM25"}
    assert len(before) == 16
    found = means(board)
    assert found["colbert_rankgpt4"] > found["tirex_rankgpt4"] > found["BM25"]
    assert found["colbert_rankzephyr"] > found["tirex_rankzephyr"]
    stages = {entry.name: entry.card.first_stage for entry in board.entries}
    assert (stages["colbert_rankgpt4"], stages["tirex_rankzephyr"]) == ("ColBERT", "TIREx BM25")


@pytest.mark.shared
def test_only_the_first_twenty_were_reranked_where_a_card_says_so(board: Board) -> None:
    first = next(entry.run for entry in board.entries if entry.name == "BM25")
    cut = [entry for entry in board.entries if "first 20 only" in entry.card.method]
    assert len(cut) == 3
    assert all(entry.run[query].doc_ids[20:] == first[query].doc_ids[20:] for entry in cut for query in first)


@pytest.mark.shared
def test_every_card_has_its_run(board: Board, shared: Path) -> None:
    cards = {path.stem for path in (HOME / "dl19-cards").glob("*.toml")}
    files = (*(shared / "data/trec_dl_runs/dl19/extra").iterdir(), *(shared / "data/llm_rerank_runs").iterdir())
    assert cards == {path.name.removesuffix(".gz").rpartition(".")[0] for path in files if path.suffix == ".gz"}


@pytest.mark.shared
def test_the_site_holds_no_passage(board: Board, tmp_path: Path) -> None:
    page = write_site([board], tmp_path)
    data = list((tmp_path / "data").rglob("*.js"))
    assert len(data) == 44
    assert all('"texts"' not in path.read_text() for path in data)
    assert "Parry-Parry/sigir25-annotation</a>" in page.read_text()
    assert sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()) < 4_000_000


@pytest.mark.shared
def test_a_run_of_the_board_as_a_submission(shared: Path, tmp_path: Path) -> None:
    source = shared / "data/trec_dl_runs/dl19/extra/colbert_rankgpt4.run.gz"
    (tmp_path / source.name).write_bytes(source.read_bytes())
    card = (HOME / "dl19-cards/colbert_rankgpt4.toml").read_text()
    (tmp_path / "colbert_rankgpt4.toml").write_text(card)
    qrels = read_qrels(shared / "data/qrels/qrels.dl19-passage.txt")
    found = check_submission(tmp_path / "colbert_rankgpt4.toml", qrels)
    assert found.problems == ["The card has no sha256: hash of the run file."]
    (tmp_path / "colbert_rankgpt4.toml").write_text(card + found.notes[0].partition(": ")[2])
    assert check_submission(tmp_path / "colbert_rankgpt4.toml", qrels).problems == []
    assert find_runs([tmp_path])[0][0].card.sha256 == found.sha256
