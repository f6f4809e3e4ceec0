"""Wilcoxon's signed-rank test of all pairs: SciPy above 25 differences, every choice of signs below."""

from __future__ import annotations

from itertools import combinations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from rerank.evaluation.significance import open_significance_test, signed_rank


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


def test_resolution() -> None:
    test = open_significance_test("wilcoxon")
    assert test.resolution(5) == 2 / 32
    assert test.resolution(1) == 1
    assert test.resolution(25) == 2**-24
    assert test.resolution(26) < 1e-300
    assert test.p_values(np.column_stack([np.arange(1.0, 6), np.zeros(5)])) == pytest.approx(2 / 32)
