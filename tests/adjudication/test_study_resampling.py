"""Intervals of a study's figures and tests of its methods."""

from __future__ import annotations

import numpy as np
import pytest

from rerank.adjudication.resampling import CONTRASTED, RESAMPLED, compare_methods
from rerank.adjudication.studies import AdjudicationStudy, StudyDesign, run_study
from rerank.errors import UsageError
from tests.adjudication.test_studies import BUDGETS, made
from tests.raising import raises


@pytest.fixture(scope="module")
def found() -> AdjudicationStudy:
    """A study with intervals."""
    runs, qrels = made()
    design = StudyDesign(methods=("docid", "random", "mtf"), budgets=BUDGETS, relevant=2, seeds=3, resamples=60)
    return run_study(runs, qrels, design)


def test_samples_change_no_figure(found: AdjudicationStudy) -> None:
    runs, qrels = made()
    plain = run_study(
        runs, qrels, StudyDesign(methods=("docid", "random", "mtf"), budgets=BUDGETS, relevant=2, seeds=3)
    )
    assert [{**row, "interval": None} for row in plain.rows()] == [{**row, "interval": None} for row in found.rows()]


def test_an_interval_contains_its_figure(found: AdjudicationStudy) -> None:
    for row in found.rows():
        assert row["interval"].keys() == set(RESAMPLED)
        for name, bounds in row["interval"].items():
            if bounds is not None:
                assert -1 <= bounds[0] <= row[name] <= bounds[1] <= 1
        if row["budget"] == "100%":
            assert row["interval"]["recall"] == [row["recall"], row["recall"]] or row["recall"] < 1


def test_methods_are_compared_on_the_same_samples(found: AdjudicationStudy) -> None:
    contrasts = found.contrasts()
    assert {row["figure"] for row in contrasts} <= set(CONTRASTED)
    rows = {(row["method"], row["budget"]): row for row in found.rows()}
    for row in contrasts:
        a, b = (rows[row[side], row["budget"]][row["figure"]] for side in ("method_a", "method_b"))
        assert row["difference"] == pytest.approx(a - b)
        assert 0 < row["p"] <= row["adjusted_p"] <= 1
        if row["budget"] == "100%":  # every order has judged the same documents
            assert (row["difference"], row["p"]) == (0, 1)
    (better,) = [r for r in contrasts if (r["budget"], r["figure"], r["method_a"]) == ("50%", "recall", "docid")][1:]
    assert better["method_b"] == "mtf"
    assert better["difference"] < 0


def test_a_difference_that_all_samples_confirm_is_found_and_one_that_none_do_is_not() -> None:
    chance = np.random.default_rng(0)
    common = chance.normal(0, 0.1, (400, len(RESAMPLED)))
    own = [chance.normal(0, 0.01, common.shape) for _ in range(3)]
    figures = {"a": common + own[0], "b": common + own[1], "c": common + own[2]}
    rows = {name: dict.fromkeys(CONTRASTED, value) for name, value in (("a", 0.8), ("b", 0.7), ("c", 0.705))}
    found = {(r["method_a"], r["method_b"]): r for r in compare_methods(rows, figures, 0.05) if r["figure"] == "tau"}
    assert found["a", "b"]["adjusted_p"] < 0.001  # .1 against .014: what all methods share cancels out
    assert found["b", "c"]["adjusted_p"] > 0.5
    low, high = found["b", "c"]["interval"]
    assert low < 0 < high


def test_figures_that_are_mostly_undefined_have_no_interval() -> None:
    figures = {name: np.full((10, len(RESAMPLED)), np.nan) for name in "ab"}
    assert not list(compare_methods({name: dict.fromkeys(CONTRASTED, 0.5) for name in "ab"}, figures, 0.05))


def test_bad_numbers_of_samples() -> None:
    for count in (-1, 1):
        with raises(UsageError, f"resamples is {count}"):
            StudyDesign(methods=("mtf",), budgets=BUDGETS, resamples=count)


def test_fewer_samples_than_seeds() -> None:
    runs, qrels = made()
    design = StudyDesign(methods=("random",), budgets=BUDGETS[1:2], relevant=2, seeds=5, resamples=3)
    (row,) = run_study(runs, qrels, design).rows()
    assert row["seeds"] == 5
    assert row["interval"]["tau"][0] <= row["tau"]
