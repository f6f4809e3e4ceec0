"""Runs and groups of runs that are left out of a pool."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.stats import kendalltau

from rerank.adjudication import leave_groups_out
from rerank.adjudication.pools import group_runs_by_name
from rerank.errors import DataError, UsageError
from rerank.evaluation import evaluate_run
from rerank.io.run_files import read_qrels, read_run
from rerank.types import Qrels
from tests.raising import raises
from tests.ranked import run_of

RUNS = [run_of("x-1", q="abc", r="abc"), run_of("x-2", q="bad", r="abd"), run_of("y", q="zab", r="abz")]
QRELS = Qrels({"q": {"a": 0, "b": 1, "z": 1, "d": 1, "far": 1}, "r": {"a": 1, "b": 1, "z": 0, "c": -1}})


def test_documents_that_only_one_run_pooled_lose_their_judgment() -> None:
    study = leave_groups_out(RUNS, QRELS, ["P@2"], depth=2)
    assert [(row["run"], row["mean"]) for row in study.rows] == [("x-1", 0.75), ("x-2", 0.75), ("y", 0.75)]
    y = study.rows[2]
    # only y has z in its first two documents of q, and no run has unique documents in r
    assert (y["unique"], y["unique_relevant"], y["without"], y["difference"], y["fall"]) == (1, 1, 0.5, -0.25, 0)
    assert {(row["unique"], row["fall"]) for row in study.rows[:2]} == {(0, 0)}
    changes = {"mean_change": pytest.approx(1 / 9), "largest_drop": pytest.approx(1 / 3), "max_fall": 0}
    assert study.summary == ({"measure": "P@2", **changes, "lowest_tau": None, "tau": None},)


def test_the_runs_of_a_group_are_left_out_together() -> None:
    alone = {row["run"]: row["unique"] for row in leave_groups_out(RUNS, QRELS, ["P@3"], depth=3).rows}
    together = leave_groups_out(RUNS, QRELS, ["P@3"], depth=3, groups=[("x", "x-*")])
    assert alone == {"x-1": 0, "x-2": 1, "y": 2}
    found = {row["run"]: (row["group"], row["unique"]) for row in together.rows}
    assert found == {"x-1": ("x", 1), "x-2": ("x", 1), "y": ("y", 2)}


def test_scores_and_correlations_are_those_of_a_plain_implementation() -> None:
    chance = np.random.default_rng(1)
    lists = {
        f"s{s}": {f"q{q}": "".join(chance.permutation(list("abcdefghijklmno"))) for q in range(6)} for s in range(5)
    }
    runs = [run_of(name, **rankings) for name, rankings in lists.items()]
    qrels = Qrels({f"q{q}": {doc: int(chance.integers(0, 3)) for doc in "abcdefghijklmno"} for q in range(6)})
    study = leave_groups_out(runs, qrels, ["nDCG@5"], depth=3)
    own = {}
    for row in study.rows:
        others = [rankings for name, rankings in lists.items() if name != row["run"]]
        kept = {
            q: {
                d: g
                for d, g in judged.items()
                if d not in lists[row["run"]][q][:3] or any(d in o[q][:3] for o in others)
            }
            for q, judged in qrels.items()
        }
        after = {run.name: evaluate_run(Qrels(kept), run, ["nDCG@5"]).mean("nDCG@5") for run in runs}
        before = {run.name: evaluate_run(qrels, run, ["nDCG@5"]).mean("nDCG@5") for run in runs}
        assert row["without"] == pytest.approx(after[row["run"]])
        assert row["tau"] == pytest.approx(kendalltau(list(before.values()), list(after.values())).statistic)
        ranked = [sorted(means, key=lambda name: -means[name]).index(row["run"]) for means in (before, after)]
        assert (row["rank"], row["fall"]) == (ranked[0] + 1, ranked[1] - ranked[0])
        own[row["run"]] = (before[row["run"]], after[row["run"]])
    assert study.summary[0]["tau"] == pytest.approx(kendalltau(*zip(*own.values(), strict=True)).statistic)
    assert sum(row["unique"] for row in study.rows) > 5


def test_a_topic_that_loses_all_judgments_counts_as_zero() -> None:
    study = leave_groups_out(RUNS, Qrels({"q": {"z": 1}, "r": {"a": 1}}), ["RR@3"], depth=1)
    assert {row["run"]: row["without"] for row in study.rows} == {"x-1": 0.5, "x-2": 0.5, "y": 0.5}


@pytest.mark.shared
def test_the_figures_of_deep_learning_2019(shared: Path) -> None:
    """The figures of docs/adjudication.md for single runs and for groups."""
    files = sorted((shared / "data/trec_dl_runs/dl19/official").glob("*.gz"))
    runs = [read_run(file, name=file.name) for file in files]
    qrels = read_qrels(shared / "data/qrels/qrels.dl19-passage.txt")
    prefixes = ("idst", "p_", "TUW19", "runid", "srchvrs", "bm25", "UNH", "ICT")
    for groups, loss, fall, tau in (([], 0.10335, 4, 0.964), ([(p, f"{p}*") for p in prefixes], 0.13769, 8, 0.883)):
        (row,) = leave_groups_out(runs, qrels, ["nDCG@10"], groups=groups, depth=10, relevant=2).summary
        assert (row["largest_drop"], row["max_fall"], row["tau"]) == (
            pytest.approx(loss, abs=1e-5),
            fall,
            pytest.approx(tau, abs=5e-4),
        )


def test_groups() -> None:
    assert group_runs_by_name(["a1", "b", "a2"], [("a", "a1"), ("a", "a2")]) == {"a": [0, 2], "b": [1]}
    with raises(UsageError, "'c*'"):
        group_runs_by_name(["a1", "b"], [("c", "c*")])
    with raises(DataError, 1):
        leave_groups_out(RUNS, QRELS, ["P@2"], groups=[("all", "*")])
