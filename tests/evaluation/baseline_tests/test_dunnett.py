"""Dunnett's test against R's multcomp, SciPy's multivariate t and the t-test."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from rerank.evaluation.baseline_tests import open_baseline_test
from rerank.evaluation.significance.anova import Dunnett, critical_dunnett, dunnett_tail

LINES = [line for line in Path(__file__).with_name("dunnett.csv").read_text().splitlines() if line[0] != "#"]


def cases() -> list[tuple[Any, Any]]:
    """Scores, whose first system is the baseline, and R's rows: difference, p, ends of the simultaneous interval."""
    found: list[tuple[Any, list[list[float]]]] = []
    for row in csv.DictReader(LINES):
        if row["scores"]:
            shape = (int(row["systems"]), int(row["topics"]))
            found.append((np.array(row["scores"].split(), dtype=float).reshape(shape).T, []))
        found[-1][1].append([float(row[key]) for key in ("difference", "p", "low", "high")])
    return [(scores, np.array(rows)) for scores, rows in found]


@pytest.mark.parametrize(("scores", "reference"), cases())
def test_r_gives_the_same(scores: Any, reference: Any) -> None:
    test = Dunnett()
    np.testing.assert_allclose(test.p_values(scores, 0).adjusted, reference[:, 1], atol=2e-4)  # R integrates at random
    half = test.half_widths(scores, 0, 0.05)
    np.testing.assert_allclose(reference[:, 0] - half, reference[:, 2], atol=2e-4)
    np.testing.assert_allclose(reference[:, 0] + half, reference[:, 3], atol=2e-4)


@pytest.mark.parametrize("freedom", [1, 2, 5, 40, 3000])
def test_one_comparison_is_the_t_test(freedom: int) -> None:
    for statistic in (0.0, 0.5, 2.0, 4.0):
        expected = 2 * stats.t.sf(statistic, freedom)
        assert dunnett_tail(statistic, 1, freedom) == pytest.approx(expected, rel=1e-6 if freedom > 2 else 2e-3)


@pytest.mark.parametrize(("statistic", "comparisons", "freedom"), [(2.2, 3, 20), (2.7, 5, 252), (1.0, 2, 8)])
def test_scipy_integrates_the_same_distribution(statistic: float, comparisons: int, freedom: int) -> None:
    shape = np.full((comparisons, comparisons), 0.5) + np.eye(comparisons) / 2
    law = stats.multivariate_t(shape=shape, df=freedom, seed=1)
    corner = np.full(comparisons, statistic)
    inside = law.cdf(corner, lower_limit=-corner, maxpts=100_000)
    assert dunnett_tail(statistic, comparisons, freedom) == pytest.approx(1 - inside, abs=1e-4)


def test_the_published_critical_value() -> None:
    """Dunnett 1964, two-sided table at 5 %: 2.51 for four comparisons and 60 degrees of freedom."""
    assert critical_dunnett(0.05, 4, 60) == pytest.approx(2.51, abs=0.005)


def test_systems_that_differ_by_a_constant_are_not_tested() -> None:
    scores = np.array([[0.1, 0.2], [0.3, 0.4], [0.2, 0.3]])
    assert list(Dunnett().p_values(scores, 0).adjusted) == [1.0]


def test_the_baseline_may_be_any_system() -> None:
    scores = np.random.default_rng(3).normal(0.4, 0.1, (20, 4))
    moved = open_baseline_test("dunnett").p_values(scores[:, [1, 2, 3, 0]], 3)
    np.testing.assert_allclose(open_baseline_test("dunnett").p_values(scores, 0).adjusted, moved.adjusted)
