"""The randomised max-t test."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from scipy import stats

from rerank.errors import UsageError
from rerank.evaluation.baseline_tests import open_baseline_test
from rerank.evaluation.significance.resampling import MaxT
from tests.raising import raises


def test_all_sign_patterns_by_hand() -> None:
    scores = np.random.default_rng(5).normal([0.3, 0.4, 0.35], 0.1, (8, 3))
    d = scores[:, 1:] - scores[:, [0]]
    observed = np.abs(stats.ttest_1samp(d, 0).statistic)
    largest, alone = [], []
    for signs in product((1, -1), repeat=8):
        statistics = np.abs(stats.ttest_1samp(d * np.array(signs)[:, None], 0).statistic)
        largest.append(statistics.max())
        alone.append(statistics)
    found = MaxT(permutations=256).p_values(scores, 0)
    np.testing.assert_allclose(found.adjusted, [np.mean(np.array(largest) >= t - 1e-9) for t in observed])
    np.testing.assert_allclose(found.raw, (np.array(alone) >= observed - 1e-9).mean(axis=0))


def test_one_comparison_is_the_randomisation_test() -> None:
    scores = np.random.default_rng(6).normal([0.3, 0.36], 0.1, (12, 2))
    found = MaxT().p_values(scores, 0)
    assert found.raw == found.adjusted
    assert found.adjusted[0] == pytest.approx(open_baseline_test("permutation").p_values(scores, 0).raw[0])


def test_dependent_systems_cost_less_than_holm() -> None:
    """Copies of one system with a little noise are one comparison, not ten."""
    chance = np.random.default_rng(7)
    base, system = chance.normal(0.3, 0.1, 40), chance.normal(0.34, 0.1, 40)
    scores = np.column_stack([base, *(system + chance.normal(0, 0.001, 40) for _ in range(10))])
    assert MaxT().p_values(scores, 0).adjusted.max() < 0.5 * open_baseline_test("t").p_values(scores, 0).adjusted.max()


def test_the_level_is_kept() -> None:
    """Without a difference, 5 % of 300 experiments find one: a binomial count, 4 standard deviations."""
    chance = np.random.default_rng(8)
    found = sum(
        MaxT(permutations=199).p_values(chance.normal(0, 1, (20, 5)), 0).adjusted.min() <= 0.05 for _ in range(300)
    )
    assert abs(found - 15) < 4 * np.sqrt(300 * 0.05 * 0.95)


def test_intervals_agree_with_the_test() -> None:
    scores = np.random.default_rng(9).normal([0.3, 0.34, 0.38, 0.3], 0.1, (30, 4))
    test = MaxT(seed=2)
    d = (scores[:, 1:] - scores[:, [0]]).mean(axis=0)
    assert ((np.abs(d) > test.half_widths(scores, 0, 0.05)) == (test.p_values(scores, 0).adjusted <= 0.05)).all()


def test_equal_systems_and_constant_differences() -> None:
    scores = np.random.default_rng(10).normal(0.4, 0.1, (30, 1)) + np.array([0.0, 0.0, 0.1])
    found = MaxT().p_values(scores, 0).adjusted
    assert found[0] == 1.0
    assert found[1] < 0.001


def test_tests_of_all_pairs_have_no_baseline() -> None:
    with raises(UsageError, "tukey-anova", "dunnett", "max-t"):
        open_baseline_test("tukey-anova")
    with raises(UsageError, "holm", "dunnett"):
        open_baseline_test("dunnett", "holm")
