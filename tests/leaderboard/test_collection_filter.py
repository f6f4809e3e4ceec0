"""Runs of other collections are left out of a board, and named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rerank.errors import DataError
from rerank.experiment.spec import Execution
from rerank.io.run_files import write_qrels, write_run
from rerank.leaderboard.board import Board, BoardCollection, is_on_collection, make_board
from rerank.leaderboard.board_config import BoardConfig
from rerank.leaderboard.entries import find_runs
from rerank.leaderboard.suites.bench import execute_runs, plan_runs
from rerank.types import Document, Qrels, Query, Ranking, Run
from tests.leaderboard.made import judged, noisy, run_folder, suite_of, write_lists
from tests.raising import raises

HOW = Execution()


def board(folder: Path, qrels: str, **changed: Any) -> Board:
    return make_board(BoardConfig(title="T", qrels=qrels, **changed), home=folder, runs=[folder / "runs"])


def names(made: Board) -> list[str]:
    return [entry.name for entry in made.entries]


def elsewhere(*, text: str = "another {}") -> tuple[Qrels, Run]:
    """A collection whose queries have the same ids as those of `judged`, and other documents."""
    qrels = Qrels({query: {f"x{doc}": grade for doc, grade in row.items()} for query, row in judged().items()})
    lists = [
        Ranking.from_order(Query(id=query, text=text.format(query)), [Document(id=doc) for doc in row])
        for query, row in qrels.items()
    ]
    return qrels, Run(lists, name="run")


def test_a_suite_of_two_collections_becomes_a_board_of_the_chosen_one(tmp_path: Path) -> None:
    one, two = write_lists(tmp_path, "one"), write_lists(tmp_path, "two", shift=40)
    (tmp_path / "runs").mkdir()
    suite = suite_of([{"collection": one}, {"collection": two}])
    assert [m.problem for m in execute_runs(plan_runs(suite, tmp_path / "runs", HOW), tmp_path / "runs", HOW)] == [
        ""
    ] * 4
    for chosen in (one, "one.qrels"):
        made = board(tmp_path, chosen)
        assert {entry.origin.collection for entry in made.entries if entry.origin} == {one}
        assert len(made.entries) == 3
        (told,) = [note for note in made.notes if "other collections" in note]
        assert told.startswith("2 run folders of other collections")
        assert two in told
        assert "fullrank-fake-perfect" in told


def test_queries_that_share_no_id_do_not_stop_the_board(tmp_path: Path) -> None:
    first = noisy(judged(), 1, 1)
    run_folder(tmp_path / "runs" / "ours", first, first)
    other = Run([Ranking.from_order(Query(id="z", text="z"), [Document(id="d")])], name="run")
    run_folder(tmp_path / "runs" / "theirs", other, other, spec={"collection": "beir:other"})
    write_qrels(judged(), tmp_path / "qrels.txt")
    made = board(tmp_path, "qrels.txt")
    assert names(made)[0] == "ours"
    assert made.notes[-1] == "1 run folder of another collection was excluded: 'theirs' (collection 'beir:other')."
    (tmp_path / "runs" / "ours" / "summary.json").write_text('{"complete": false}')
    with raises(DataError, "'theirs'", "'ours'"):
        board(tmp_path, "qrels.txt")


@pytest.mark.parametrize("scored", [True, False])
def test_equal_ids_of_queries_are_no_proof(tmp_path: Path, *, scored: bool) -> None:
    qrels, run = elsewhere()
    run_folder(tmp_path / "runs" / "theirs", run, run, **({"qrels": qrels} if scored else {}))
    first = noisy(judged(), 1, 1)
    run_folder(tmp_path / "runs" / "ours", first, first, **({"qrels": judged()} if scored else {}))
    write_qrels(judged(), tmp_path / "qrels.txt")
    assert names(board(tmp_path, "qrels.txt")) == ["ours", "bm25, first 25"]


def test_other_questions_under_the_same_ids_are_another_collection(tmp_path: Path) -> None:
    mixed = Qrels({query: {**row, f"d{query}": 0} for query, row in judged().items()})
    first = noisy(judged(), 1, 1)
    run_folder(tmp_path / "runs" / "ours", first, first, qrels=mixed)
    write_qrels(judged(), tmp_path / "qrels.txt")
    (tmp_path / "same.tsv").write_text("".join(f"{query}\tQuestion  {query}\n" for query in judged()))
    (tmp_path / "topics.tsv").write_text("".join(f"{query}\twho wrote {query}\n" for query in judged()))
    assert len(names(board(tmp_path, "qrels.txt", queries="same.tsv"))) == 2
    with raises(DataError, "'ours'"):
        board(tmp_path, "qrels.txt", queries="topics.tsv")


def test_other_judgments_of_the_same_documents_are_no_other_collection(tmp_path: Path) -> None:
    """As where an LLM judged anew: a board by its file holds the runs that were scored with NIST's."""
    first = noisy(judged(), 1, 1)
    run_folder(tmp_path / "runs" / "ours", first, first, qrels=judged(), spec={"collection": "jsonl:somewhere"})
    few = Qrels({query: dict.fromkeys(list(row)[:8], 1) | {"new": 2} for query, row in judged().items()})
    write_qrels(few, tmp_path / "qrels.txt")
    assert names(board(tmp_path, "qrels.txt"))[0] == "ours"


def test_one_collection_by_two_selectors(tmp_path: Path) -> None:
    """Judgments decide where names do not; some queries alone are enough where only some were asked for."""
    one = write_lists(tmp_path, "one")
    (tmp_path / "copy").mkdir()
    copy = write_lists(tmp_path / "copy", "one", depth=13)
    (tmp_path / "copy" / "one.qrels").write_text((tmp_path / "one.qrels").read_text())
    (tmp_path / "runs").mkdir()
    suite = suite_of([{"collection": copy, "max_queries": 3}], models=["fake:reversed"])
    list(execute_runs(plan_runs(suite, tmp_path / "runs", HOW), tmp_path / "runs", HOW))
    assert len(board(tmp_path, one).entries) == 2


def test_documents_in_common_do_not_make_other_queries_the_boards(tmp_path: Path) -> None:
    """As T2Ranking's splits, whose fingerprints are those of their passages."""
    first = noisy(judged(), 1, 1)
    run_folder(tmp_path / "ours", first, first, dataset={"fingerprint": "f"})
    other = Run([Ranking.from_order(Query(id="z", text="z"), [Document(id="d0-0")])], name="run")
    run_folder(tmp_path / "theirs", other, other, dataset={"fingerprint": "f"})
    entries, _ = find_runs([tmp_path])
    ground = BoardCollection(named="t2ranking:here", qrels=judged(), fingerprint="f")
    assert [entry.name for entry in entries if is_on_collection(entry, ground)] == ["ours"]
    ours = next(entry for entry in entries if entry.name == "ours")
    assert not is_on_collection(ours, BoardCollection(named="x", qrels=Qrels({"z": {"d": 1}}), fingerprint="g"))


def test_a_run_file_stays(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    write_run(elsewhere()[1], tmp_path / "runs" / "plain.trec")
    write_qrels(judged(), tmp_path / "qrels.txt")
    made = board(tmp_path, "qrels.txt")
    assert (names(made), made.tables[0].runs[0].mean) == (["plain"], 0.0)
