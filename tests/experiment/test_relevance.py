"""Runs and rerankers with a calibration: probabilities in the folder and in hits, refused for another ranker."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rerank import Reranker, RunSpec
from rerank.errors import UsageError
from rerank.experiment import run_experiment
from rerank.experiment.calibrate import fit_to_runs
from rerank.experiment.spec import Execution
from tests.raising import raises


def spec(**values: Any) -> RunSpec:
    chosen = {"collection": "pydoc", "model": "fake:stutter", "method": "pointwise", "depth": 8, "max_queries": 6}
    return RunSpec.make({**chosen, **values})


@pytest.fixture
def calibration(tmp_path: Path) -> Path:
    run_experiment(spec(max_queries=12), Execution(out=tmp_path / "fitted"))
    fit_to_runs([tmp_path / "fitted"], tmp_path / "calibration.json", complete=True)
    return tmp_path / "calibration.json"


def test_a_run_writes_probabilities_and_a_reranker_gives_the_same_kind(calibration: Path, tmp_path: Path) -> None:
    run_experiment(spec(), Execution(out=tmp_path / "run", calibration=str(calibration)))
    rows = [json.loads(line) for line in (tmp_path / "run" / "relevance.jsonl").read_text("utf-8").splitlines()]
    assert len(rows) == 6
    for row in rows:
        values = list(row["relevance"].values())
        assert values == sorted(values, reverse=True)
        assert all(0 <= value <= 1 for value in (*values, row["answerable"]))
        assert row["fit"] == "judge+first-stage"
    reranker = Reranker.from_pretrained("fake:stutter", method="pointwise", calibration=str(calibration))
    hits = reranker.rank("open a file", ["a", "b", "c", "d"])
    relevance = [hit.relevance or 0.0 for hit in hits]
    assert relevance == sorted(relevance, reverse=True)
    assert hits.report.fit == "judge"  # no first-stage scores were given
    assert hits.answerable is not None
    kept = reranker.rank("open a file", ["a", "b", "c", "d"], threshold=relevance[1])
    assert len(kept) == sum(value >= relevance[1] for value in relevance) >= 2


def test_a_calibration_of_another_ranker_is_refused(calibration: Path, tmp_path: Path) -> None:
    with raises(UsageError, "another ranker"):
        run_experiment(spec(method="fullrank"), Execution(out=tmp_path / "other", calibration=str(calibration)))
    with raises(UsageError, "another ranker"):
        Reranker.from_pretrained("fake:stutter", method="fullrank", calibration=str(calibration))
