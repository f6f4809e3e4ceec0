"""Two-way ANOVA and Tukey's HSD: a linear model, printed tables, and the t-test that it is for two systems."""

from __future__ import annotations

import numpy as np
import pytest

from rerank.evaluation.significance import SMALLEST, open_significance_test
from rerank.evaluation.significance.anova import (
    anova_mean_square_error,
    critical_studentised_range,
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
