"""Permutation, bootstrap, randomised Tukey and max-t tests against all draws of few topics."""

from __future__ import annotations

import os
from itertools import permutations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from rerank.errors import UsageError
from rerank.evaluation.baseline_tests import open_baseline_test
from rerank.evaluation.significance import open_significance_test
from rerank.evaluation.significance.resampling import MaxT
from tests.raising import raises


def against_zero(values: list[float] | np.ndarray[tuple[int], np.dtype[np.float64]], selector: str) -> float:
    return float(open_significance_test(selector).p_values(np.column_stack([values, np.zeros(len(values))]))[0])


@settings(max_examples=25)
@given(st.lists(st.integers(-9, 9), min_size=2, max_size=9))
def test_all_flips_of_few_topics(values: list[int]) -> None:
    """In whole numbers, so that what is as extreme is counted without rounding."""
    observed = abs(sum(values))
    flipped = [
        abs(sum(s * v for s, v in zip(signs, values, strict=True))) for signs in product((1, -1), repeat=len(values))
    ]
    expected = sum(total >= observed for total in flipped) / 2 ** len(values)
    assert against_zero([value / 10 for value in values], "permutation") == pytest.approx(expected)


def test_it_is_scipys() -> None:
    d = np.random.default_rng(1).normal(0.3, 1, 11)
    theirs = stats.permutation_test((d, np.zeros(11)), lambda x, y: np.mean(x - y), permutation_type="samples")
    assert against_zero(d, "permutation") == pytest.approx(theirs.pvalue)


def test_drawn_flips_are_near_all_of_them() -> None:
    d = np.random.default_rng(2).normal(0.4, 1, 13)
    exact, drawn = against_zero(d, "permutation,permutations=8192"), against_zero(d, "permutation,permutations=8191")
    assert exact * 2**13 == pytest.approx(round(exact * 2**13))
    assert drawn == pytest.approx(exact, abs=5 * (exact / 8191) ** 0.5)
    assert drawn * 8192 == pytest.approx(round(drawn * 8192)), "(1 + reached) / (1 + draws)"


def test_p_is_never_0_and_resolution_says_how_small_it_gets() -> None:
    test = open_significance_test("permutation,permutations=99")
    assert against_zero(np.arange(1.0, 41), "permutation,permutations=99") == test.resolution(40) == 0.01
    assert test.resolution(6) == 2 / 64
    assert against_zero(np.arange(1.0, 7), "permutation,permutations=99") == 2 / 64


def test_it_is_near_all_draws_of_few_topics() -> None:
    """5^5 draws, each studentised as the sample is."""
    d = np.array([0.31, -0.12, 0.55, 0.20, 0.08])
    count = len(d)

    def studentised(values: np.ndarray[tuple[int], np.dtype[np.float64]]) -> float:
        spread = values.std(ddof=1)
        return float("inf") if spread < 1e-12 else abs(values.mean()) / (spread / count**0.5)

    shifted = d - d.mean()
    reached = [studentised(shifted[list(places)]) >= studentised(d) for places in product(range(count), repeat=count)]
    (p,) = open_significance_test("bootstrap,permutations=40000").p_values(np.column_stack([d, np.zeros(count)]))
    assert p == pytest.approx(np.mean(reached), abs=0.01)


def test_a_draw_of_one_topic_throughout_counts_as_extreme() -> None:
    """Half of the draws of two topics are one of them twice; the others have a mean of 0."""
    (p,) = open_significance_test("bootstrap").p_values(np.array([[1.0, 0.0], [3.0, 0.0]]))
    assert p == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize("test", ["permutation", "bootstrap"])
def test_for_normal_differences_it_is_near_t(test: str) -> None:
    scores = np.random.default_rng(3).normal(0, 1, (50, 5))
    near, t = (open_significance_test(selector).p_values(scores) for selector in (test, "t"))
    np.testing.assert_allclose(near, t, atol=0.03)


def test_hardly_any_spread_beside_a_large_mean() -> None:
    """The spread is that of the differences, and no rounding of squares."""
    noise = 1e-7 * np.random.default_rng(4).normal(size=30)
    (p,) = open_significance_test("bootstrap,permutations=999").p_values(np.column_stack([1 + noise, np.zeros(30)]))
    assert p == open_significance_test("bootstrap,permutations=999").resolution(30) == 0.001


def test_the_same_difference_everywhere_leaves_nothing_to_draw_from() -> None:
    assert open_significance_test("bootstrap").p_values(np.column_stack([np.ones(30), np.zeros(30)])).tolist() == [1.0]


def test_it_is_near_all_permutations_of_a_small_table() -> None:
    """6^4 ways to hand every topic's three scores out."""
    scores = np.array([[0.9, 0.4, 0.1], [0.5, 0.6, 0.2], [0.7, 0.3, 0.6], [0.8, 0.1, 0.4]])
    ranges = np.array([np.ptp(np.mean(rows, axis=0)) for rows in product(*(list(permutations(row)) for row in scores))])
    means = scores.mean(axis=0)
    exact = [(ranges >= abs(means[a] - means[b]) - 1e-12).mean() for a, b in ((0, 1), (0, 2), (1, 2))]
    p = open_significance_test("tukey-randomised,permutations=20000").p_values(scores)
    np.testing.assert_allclose(p, exact, atol=0.015)


def test_for_two_systems_it_is_the_randomisation_test() -> None:
    scores = np.random.default_rng(1).random((10, 2))
    p = open_significance_test("tukey-randomised,permutations=20000").p_values(scores)
    np.testing.assert_allclose(p, open_significance_test("permutation").p_values(scores), atol=0.02)


def test_a_larger_difference_has_no_larger_p_and_none_is_0() -> None:
    scores = np.random.default_rng(2).normal(size=(20, 8)) + np.linspace(0, 4, 8)
    test = open_significance_test("tukey-randomised,permutations=500")
    means = scores.mean(axis=0)
    first, second = np.triu_indices(8, 1)
    order = np.argsort(np.abs(means[first] - means[second]))
    p = test.p_values(scores)
    assert (np.diff(p[order]) <= 0).all()
    assert p.min() == test.resolution(20) == 1 / 501


def test_the_number_of_cores_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = np.random.default_rng(3).random((50, 60))
    test = open_significance_test("tukey-randomised,permutations=1000,seed=5")
    many = test.p_values(scores)
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    assert test.p_values(scores).tolist() == many.tolist()


def test_all_sign_patterns_by_hand() -> None:
    scores = np.random.default_rng(5).normal([0.3, 0.4, 0.35], 0.1, (8, 3))
    d = scores[:, 1:] - scores[:, [0]]
    observed = np.abs(stats.ttest_1samp(d, 0).statistic)
    largest, alone = [], []
    for signs in product((1, -1), repeat=8):
        statistics = np.abs(stats.ttest_1samp(d * np.array(signs)[:, None], 0).statistic)
        largest.append(statistics.max())
        alone.append(statistics)
    found = MaxT(flip=True, permutations=256).p_values(scores, 0)
    np.testing.assert_allclose(found.adjusted, [np.mean(np.array(largest) >= t - 1e-9) for t in observed])
    np.testing.assert_allclose(found.raw, (np.array(alone) >= observed - 1e-9).mean(axis=0))


def test_p_of_drawn_flips_counts_the_sample_itself() -> None:
    """No draw of 99 reaches 40 differences of one sign, so p is (1 + 0) / (99 + 1)."""
    scores = np.column_stack([np.zeros(40), np.arange(1.0, 41)])
    found = MaxT(flip=True, permutations=99).p_values(scores, 0)
    assert found.raw == found.adjusted == [0.01]


@pytest.mark.parametrize(("test", "same"), [(MaxT(flip=True), "permutation"), (MaxT(), "bootstrap")])
def test_one_comparison_is_the_test_of_a_pair(test: MaxT, same: str) -> None:
    scores = np.random.default_rng(6).normal([0.3, 0.36], 0.1, (12, 2))
    found = test.p_values(scores, 0)
    assert found.raw == found.adjusted
    assert found.adjusted[0] == pytest.approx(open_baseline_test(same).p_values(scores, 0).raw[0])


def test_stepping_down_by_hand() -> None:
    """The draws of topics, spelt out; one test after the other, each against the systems that are left."""
    scores = np.random.default_rng(5).normal([0.3, 0.38, 0.35, 0.33], 0.1, (15, 4))
    d = scores[:, 1:] - scores[:, [0]]
    counts = np.random.default_rng(3).multinomial(15, np.full(15, 1 / 15), size=200)
    drawn = [np.abs(stats.ttest_1samp(np.repeat(d, n, axis=0), d.mean(axis=0)).statistic) for n in counts]
    observed = np.abs(stats.ttest_1samp(d, 0).statistic)
    left, least, adjusted = [0, 1, 2], 0.0, {}
    while left:
        best = max(left, key=lambda j: observed[j])
        least = max(least, (1 + sum(t[left].max() >= observed[best] for t in drawn)) / 201)
        adjusted[best] = least
        left.remove(best)
    found = MaxT(permutations=200, seed=3)
    assert found.p_values(scores, 0).adjusted.tolist() == [adjusted[0], adjusted[1], adjusted[2]]
    width = found.half_widths(scores, 0, 0.1) / (d.std(axis=0, ddof=1) / np.sqrt(15))
    np.testing.assert_allclose(width, np.sort([t.max() for t in drawn])[180])  # 90 % of 201, the sample included


def test_dependent_systems_cost_less_than_holm() -> None:
    """Copies of one system with a little noise are one comparison, not ten."""
    chance = np.random.default_rng(7)
    base, system = chance.normal(0.3, 0.1, 40), chance.normal(0.34, 0.1, 40)
    scores = np.column_stack([base, *(system + chance.normal(0, 0.001, 40) for _ in range(10))])
    assert MaxT().p_values(scores, 0).adjusted.max() < 0.5 * open_baseline_test("t").p_values(scores, 0).adjusted.max()


@pytest.mark.parametrize(
    "other", [np.full(50, 0.1), np.r_[np.full(2, 0.3), np.zeros(48)]], ids=["constant", "few differ"]
)
def test_a_run_without_variance_hides_no_other(other: np.ndarray) -> None:
    """Draws in which one run has no variance, always or often, do not count against a clear difference of another."""
    rng = np.random.default_rng(0)
    base = rng.uniform(0.2, 0.6, 50)
    scores = np.column_stack([base, base + rng.normal(0.2, 0.1, 50), base + other])
    test = MaxT(permutations=999)
    found, half = test.p_values(scores, 0), test.half_widths(scores, 0, 0.05)
    assert found.adjusted[0] == found.raw[0] == 0.001
    assert found.adjusted[1] > 0.05
    assert half[0] < 0.1


@pytest.mark.parametrize("flip", [True, False])
def test_the_level_is_kept(flip: bool) -> None:
    """Without a difference, 5 % of 300 experiments find one: a binomial count, 4 standard deviations."""
    chance = np.random.default_rng(8)
    found = sum(
        MaxT(flip=flip, permutations=199).p_values(chance.normal(0, 1, (20, 5)), 0).adjusted.min() <= 0.05
        for _ in range(300)
    )
    assert abs(found - 15) < 4 * np.sqrt(300 * 0.05 * 0.95)


def test_intervals_agree_with_the_test() -> None:
    scores = np.random.default_rng(9).normal([0.3, 0.34, 0.38, 0.3], 0.1, (30, 4))
    test = MaxT(seed=2)
    d = (scores[:, 1:] - scores[:, [0]]).mean(axis=0)
    assert ((np.abs(d) > test.half_widths(scores, 0, 0.05)) == (test.p_values(scores, 0).adjusted <= 0.05)).all()


def test_equal_systems_and_constant_differences() -> None:
    scores = np.random.default_rng(10).normal(0.4, 0.1, (30, 1)) + np.array([0.0, 0.0, 0.1])
    found = MaxT(flip=True).p_values(scores, 0).adjusted
    assert found[0] == 1.0
    assert found[1] < 0.001
    assert MaxT().p_values(scores, 0).adjusted.tolist() == [1.0, 1.0]  # nothing to draw from, as for `bootstrap`


def test_tests_of_all_pairs_have_no_baseline() -> None:
    with raises(UsageError, "tukey-anova", "dunnett", "max-t"):
        open_baseline_test("tukey-anova")
    with raises(UsageError, "holm", "dunnett"):
        open_baseline_test("dunnett", "holm")
