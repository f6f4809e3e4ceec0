"""The paired t-test of all pairs, against SciPy's of one."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from scipy import stats

from rerank.evaluation.significance import SMALLEST, open_significance_test, paired_t


def test_it_is_scipys() -> None:
    scores = np.random.default_rng(1).random((43, 6))
    theirs = [stats.ttest_rel(scores[:, a], scores[:, b]).pvalue for a, b in combinations(range(6), 2)]
    np.testing.assert_allclose(open_significance_test("t").p_values(scores), theirs, rtol=1e-9)


def test_it_is_ours_of_one_pair() -> None:
    scores = np.random.default_rng(2).integers(0, 10, (20, 2)) / 10
    (p,) = open_significance_test("t").p_values(scores)
    assert p == pytest.approx(paired_t((scores[:, 0] - scores[:, 1]).tolist()))


def test_a_difference_without_spread_is_no_evidence() -> None:
    """0.3 - 0.2 and 0.2 - 0.1 differ in their last bits, which must not pass for spread."""
    scores = np.array([[0.3, 0.2], [0.2, 0.1], [0.9, 0.8]])
    assert open_significance_test("t").p_values(scores).tolist() == [1.0]


def test_what_underflows_is_bounded() -> None:
    scores = np.column_stack([np.ones(2000) + 1e-6 * (np.arange(2000) % 2), np.zeros(2000)])
    assert open_significance_test("t").p_values(scores).tolist() == [SMALLEST]


def test_two_topics_by_hand() -> None:
    """Differences 1 and 3: t = 2 / (sqrt(2) / sqrt(2)) = 2, and with one degree of freedom p = 1 - 2 atan(2) / pi."""
    (p,) = open_significance_test("t").p_values(np.array([[1.0, 0.0], [3.0, 0.0]]))
    assert p == pytest.approx(1 - 2 * np.arctan(2) / np.pi)


def test_one_topic_gives_a_p_value_of_one_for_every_pair() -> None:
    assert open_significance_test("t").p_values(np.array([[0.1, 0.2, 0.4, 0.8]])).tolist() == [1.0] * 6
