"""The t-test, Wilcoxon's and the sign test, of one pair and of all, against SciPy and by hand."""

from __future__ import annotations

import itertools
from itertools import combinations, product

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import stats

from rerank.evaluation.significance import (
    SMALLEST,
    are_differences_constant,
    holm,
    open_significance_test,
    paired_t,
    signed_rank,
    student_t_interval,
)


@given(st.lists(st.floats(-1, 1).map(lambda x: round(x, 3)), min_size=2, max_size=40))
@example([0.1, 0.3])
def test_t_is_scipys(values: list[float]) -> None:
    if len(set(values)) < 2:
        return
    assert paired_t(values) == pytest.approx(float(stats.ttest_1samp(values, 0).pvalue), rel=1e-6)


@pytest.mark.parametrize("count", [2, 5, 30])
@pytest.mark.parametrize("difference", [0.1, -0.5, 1 / 3])
def test_the_same_difference_everywhere(count: int, difference: float) -> None:
    """Without variance t has no p-value; the tests of ranks and signs have an exact one of 2 / 2^n."""
    scores = np.column_stack([np.full(count, difference), np.zeros(count)])
    assert paired_t([difference] * count) == 1.0
    assert open_significance_test("t").p_values(scores).tolist() == [1.0]
    if count <= 25:
        exact = [
            float(open_significance_test(name).p_values(scores)[0]) for name in ("wilcoxon", "sign", "permutation")
        ]
        assert exact == [signed_rank([difference] * count)] * 3 == [2 / 2**count] * 3


@pytest.mark.parametrize("count", [30, 60])
def test_one_pair_has_the_p_value_that_it_has_among_all_pairs(count: int) -> None:
    scores = np.random.default_rng(count).integers(0, 9, (count, 4)) / 8
    differences = [(scores[:, a] - scores[:, b]).tolist() for a, b in itertools.combinations(range(4), 2)]
    assert open_significance_test("wilcoxon").p_values(scores).tolist() == [signed_rank(d) for d in differences]
    assert open_significance_test("t").p_values(scores) == pytest.approx([paired_t(d) for d in differences], rel=1e-12)


def test_constant() -> None:
    assert are_differences_constant([0.1, 0.1, 0.1])
    assert are_differences_constant([0.0])
    assert not are_differences_constant([0.1, 0.1, 0.1 + 1e-9])


def test_interval() -> None:
    values = [0.2, 0.4, 0.9, 0.1]
    low, high = student_t_interval(values)
    mean, error = 0.4, float(stats.sem(values))
    assert (low, high) == pytest.approx(stats.t.interval(0.95, 3, loc=mean, scale=error))
    assert student_t_interval([0.3, 0.3]) == (0.3, 0.3)
    wide_low, wide_high = student_t_interval(values, 0.99)
    assert wide_low < low < high < wide_high


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.6, 0.5]) == [1.0, 1.0]
    assert holm([]) == []


def test_it_is_scipys() -> None:
    scores = np.random.default_rng(1).random((43, 6))
    theirs = [stats.ttest_rel(scores[:, a], scores[:, b]).pvalue for a, b in combinations(range(6), 2)]
    np.testing.assert_allclose(open_significance_test("t").p_values(scores), theirs, rtol=1e-9)


def test_a_difference_without_spread_is_no_evidence() -> None:
    """0.3 - 0.2 and 0.2 - 0.1 differ in their last bits, which must not pass for spread."""
    scores = np.array([[0.3, 0.2], [0.2, 0.1], [0.9, 0.8]])
    assert open_significance_test("t").p_values(scores).tolist() == [1.0]


def test_what_underflows_is_bounded() -> None:
    scores = np.column_stack([np.ones(2000) + 1e-6 * (np.arange(2000) % 2), np.zeros(2000)])
    assert open_significance_test("t").p_values(scores).tolist() == [SMALLEST]
    assert paired_t([0.1 + 1e-16 * (n % 2) for n in range(900)]) == SMALLEST


def test_two_topics_by_hand() -> None:
    """Differences 1 and 3: t = 2 / (sqrt(2) / sqrt(2)) = 2, and with one degree of freedom p = 1 - 2 atan(2) / pi."""
    (p,) = open_significance_test("t").p_values(np.array([[1.0, 0.0], [3.0, 0.0]]))
    assert p == pytest.approx(1 - 2 * np.arctan(2) / np.pi)


def test_one_topic_gives_a_p_value_of_one_for_every_pair() -> None:
    assert open_significance_test("t").p_values(np.array([[0.1, 0.2, 0.4, 0.8]])).tolist() == [1.0] * 6
    assert paired_t([0.5]) == signed_rank([0.5]) == 1.0


@pytest.mark.parametrize("grades", [8, 1000])
def test_many_topics_are_scipys_approximation(grades: int) -> None:
    """With few grades there are many ties and zeros."""
    scores = np.random.default_rng(grades).integers(0, grades, (60, 5)) / 8.0
    theirs = [
        stats.wilcoxon(scores[:, a], scores[:, b], zero_method="wilcox", correction=False, method="approx").pvalue
        for a, b in combinations(range(5), 2)
    ]
    np.testing.assert_allclose(open_significance_test("wilcoxon").p_values(scores), theirs, rtol=1e-9)


@settings(max_examples=20)
@given(st.lists(st.integers(-4, 4).map(float), min_size=2, max_size=8))
def test_few_topics_are_exact_ties_included(values: list[float]) -> None:
    (p,) = open_significance_test("wilcoxon").p_values(np.column_stack([values, np.zeros(len(values))]))
    left = np.array([v for v in values if v])
    ranks = stats.rankdata(np.abs(left))
    observed = abs((ranks * np.sign(left)).sum())
    reached = [abs((ranks * signs).sum()) >= observed - 1e-9 for signs in product((1, -1), repeat=len(left))]
    assert p == pytest.approx(np.mean(reached))


def test_the_least_number_that_is_approximated() -> None:
    """What counts are the differences that are left, not the topics."""
    chance = np.random.default_rng(3)
    d = np.concatenate([chance.normal(0.2, 1, 25), np.zeros(10)])
    test = open_significance_test("wilcoxon")
    (exact,) = test.p_values(np.column_stack([d, np.zeros(35)]))
    assert exact == pytest.approx(stats.wilcoxon(d[:25], method="exact").pvalue)
    assert exact == pytest.approx(signed_rank(d.tolist()))
    d[30] = 0.5
    (approximate,) = test.p_values(np.column_stack([d, np.zeros(35)]))
    assert approximate == pytest.approx(stats.wilcoxon(d[d != 0], method="approx", correction=False).pvalue)


def test_ties_in_decimals_and_in_bits() -> None:
    """0.3 - 0.2 is a little less than 0.2 - 0.1: a tie only when rounded. Equal scores tie in either case."""
    scores = np.array([[0.3, 0.2], [0.1, 0.2], [0.2, 0.5], [0.1 + 0.2, 0.3]])
    assert len(set(np.abs(scores[:2, 0] - scores[:2, 1]))) == 2
    bits, decimals = (
        open_significance_test(selector).p_values(scores)[0] for selector in ("wilcoxon", "wilcoxon,decimals=12")
    )
    assert decimals == signed_rank([1, -1, -3]) == 0.75
    assert bits == signed_rank([1, -2, -3]) == 0.5


@pytest.mark.parametrize(("difference", "p"), [(4e-13, 1.0), (6e-13, 0.5)])
def test_differences_that_round_to_0_at_12_decimals_are_0(difference: float, p: float) -> None:
    assert open_significance_test("wilcoxon").p_values(np.array([[difference, 0.0], [difference, 0.0]])) == [p]


def test_resolution_of_wilcoxon() -> None:
    test = open_significance_test("wilcoxon")
    assert test.resolution(5) == 2 / 32
    assert test.resolution(1) == 1
    assert test.resolution(25) == 2**-24
    assert test.resolution(26) < 1e-300
    assert test.p_values(np.column_stack([np.arange(1.0, 6), np.zeros(5)])) == pytest.approx(2 / 32)


def test_it_is_scipys_binomial_test() -> None:
    scores = np.random.default_rng(1).integers(0, 5, (31, 7)) / 5 + np.linspace(0, 0.4, 7).round(1)
    theirs = []
    for a, b in combinations(range(7), 2):
        d = np.round(scores[:, a] - scores[:, b], 9)
        theirs.append(stats.binomtest(int((d > 0).sum()), int((d != 0).sum())).pvalue)
    np.testing.assert_allclose(open_significance_test("sign").p_values(scores), theirs, rtol=1e-9)


def test_equal_scores_are_ties_though_their_last_bits_differ() -> None:
    scores = np.array([[0.1 + 0.2, 0.3]] * 10 + [[1.0, 0.0]] * 6)
    assert open_significance_test("sign").p_values(scores).tolist() == [2 / 64]


def test_how_far_it_won_does_not_matter() -> None:
    d = np.random.default_rng(2).normal(size=(20, 1))
    zeros = np.zeros((20, 1))
    test = open_significance_test("sign")
    assert test.p_values(np.hstack([d, zeros])) == test.p_values(np.hstack([d**3, zeros]))


def test_resolution_of_the_sign_test() -> None:
    assert open_significance_test("sign").resolution(5) == 2 / 32
    assert open_significance_test("sign").p_values(np.column_stack([np.ones(5), np.zeros(5)])).tolist() == [2 / 32]
