"""Tukey's HSD and Dunnett's test: a linear model, printed tables, R's multcomp, and the t-test for two systems."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from rerank.evaluation.significance import SMALLEST, open_significance_test
from rerank.evaluation.significance.anova import (
    Dunnett,
    anova_mean_square_error,
    critical_dunnett,
    critical_studentised_range,
    dunnett_tail,
    studentised_range_tail,
)


def test_the_error_is_that_of_a_linear_model() -> None:
    """Least squares on indicators of topics and systems, with a column less for each."""
    scores = np.random.default_rng(1).random((9, 5))
    topics, systems = np.indices(scores.shape)
    columns = [np.ones(45), *(topics.ravel() == t for t in range(1, 9)), *(systems.ravel() == s for s in range(1, 5))]
    _, (squares,), rank, _ = np.linalg.lstsq(np.column_stack(columns).astype(float), scores.ravel())
    assert rank == 13
    assert anova_mean_square_error(scores) == pytest.approx(squares / (45 - 13))


@pytest.mark.parametrize(
    ("alpha", "systems", "freedom", "printed"),
    [(0.05, 3, 10, 3.88), (0.05, 5, 20, 4.23), (0.05, 10, 60, 4.65), (0.01, 4, 30, 4.80), (0.05, 2, 10, 3.15)],
)
def test_critical_values_are_those_of_printed_tables(alpha: float, systems: int, freedom: int, printed: float) -> None:
    assert critical_studentised_range(alpha, systems, freedom) == pytest.approx(printed, abs=0.006)


def test_for_two_systems_it_is_the_paired_t_test() -> None:
    scores = np.random.default_rng(2).random((25, 2))
    np.testing.assert_allclose(
        open_significance_test("tukey-anova").p_values(scores), open_significance_test("t").p_values(scores), rtol=1e-6
    )


def test_p_values_of_many_pairs_are_near_the_exact_ones() -> None:
    scores = np.random.default_rng(3).normal(size=(20, 24)) + np.linspace(0, 2.5, 24)
    p = open_significance_test("tukey-anova").p_values(scores)
    assert len(p) > 200
    some = np.random.default_rng(4).choice(len(p), 6, replace=False)
    means, first, second = scores.mean(axis=0), *np.triu_indices(24, 1)
    q = np.abs(means[first] - means[second]) / np.sqrt(anova_mean_square_error(scores) / 20)
    np.testing.assert_allclose(p[some], studentised_range_tail(q[some], 24, 19 * 23), rtol=1e-4, atol=1e-11)
    assert SMALLEST <= p.min() < 1e-6


def test_where_topic_and_system_explain_everything_nothing_can_be_judged() -> None:
    for unit in (1.0, 1e6):
        scores = unit * (np.linspace(0, 0.7, 12)[:, None] + np.array([0.1, 0.2, 0.4]))
        assert anova_mean_square_error(scores) == 0
        assert open_significance_test("tukey-anova").p_values(scores).tolist() == [1, 1, 1]
        test = open_significance_test("tukey-anova")
        assert not test.significant(scores, 0.05).any()  # type: ignore[attr-defined]


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
