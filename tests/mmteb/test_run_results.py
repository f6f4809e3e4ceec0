"""Runs as results of mteb's tasks, read by mteb's loader."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("mteb")

import mteb

from rerank.errors import DataError, UnknownNameError, UsageError
from rerank.evaluation import evaluate_run
from rerank.mmteb.evaluation import write_run_as_result
from rerank.types import Document, Qrels, Query, Ranking, Run
from tests.raising import raises

GRADES = Qrels({"q1": {"d1": 3, "d2": 0, "d3": 1}, "q2": {"d1": 0, "d4": 2}})


def run_of(**orders: str) -> Run:
    rankings = [
        Ranking.from_order(Query(id=query, text=""), [Document(id=doc) for doc in order.split()])
        for query, order in orders.items()
    ]
    return Run(rankings, name="my run")


def test_the_loader_of_mteb_reads_the_result(tmp_path: Path) -> None:
    run = run_of(q1="d2 d1 d3", q2="q2 d4 d1")
    path = write_run_as_result(run, GRADES, "TRECDL2019", tmp_path, identity={"a": 1}, seconds=2.0)
    assert path.parent.parent.name == "listrank__my-run"
    found = mteb.ResultCache(tmp_path).load_results(include_remote=False, validate_and_filter=True)
    (model,) = found.model_results
    (result,) = model.task_results
    assert (model.model_name, result.task_name) == ("listrank/my-run", "TRECDL2019")
    # the task ignores documents with the id of the query
    expected = evaluate_run(GRADES, run_of(q1="d2 d1 d3", q2="d4 d1"), ["nDCG@10", "AP@100"])
    assert result.get_score() == pytest.approx(expected.mean("nDCG@10"), abs=1e-5)
    (scores,) = result.scores["test"]
    assert scores["map_at_100"] == pytest.approx(expected.mean("AP@100"), abs=1e-5)


def test_the_revision_tells_results_apart(tmp_path: Path) -> None:
    run = run_of(q1="d1", q2="d4")
    paths = {write_run_as_result(run, GRADES, "TRECDL2019", tmp_path, identity={"a": n}) for n in (1, 1, 2)}
    assert len(paths) == 2


def test_what_is_refused(tmp_path: Path) -> None:
    with raises(DataError, "'my run'", "'q2'"):
        write_run_as_result(run_of(q1="d1"), GRADES, "TRECDL2019", tmp_path, identity={})
    with raises(UnknownNameError, "TRECDL2O19"):
        write_run_as_result(run_of(q1="d1"), GRADES, "TRECDL2O19", tmp_path, identity={})
    with raises(UsageError, "MIRACLRetrieval"):
        write_run_as_result(run_of(q1="d1"), GRADES, "MIRACLRetrieval", tmp_path, identity={})
    assert not list(tmp_path.iterdir())
