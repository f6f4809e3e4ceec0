"""The sign test of all pairs, against SciPy's binomial test."""

from __future__ import annotations

from itertools import combinations

import numpy as np
from scipy import stats

from rerank.evaluation.significance import open_significance_test


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


def test_resolution() -> None:
    assert open_significance_test("sign").resolution(5) == 2 / 32
    assert open_significance_test("sign").p_values(np.column_stack([np.ones(5), np.zeros(5)])).tolist() == [2 / 32]
