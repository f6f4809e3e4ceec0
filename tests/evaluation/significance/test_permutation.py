"""The paired randomisation test: every flip of few topics, SciPy's test, and a draw of flips for many."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from rerank.evaluation.significance import open_significance_test


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


def test_for_normal_differences_it_is_near_t() -> None:
    scores = np.random.default_rng(3).normal(0, 1, (50, 5))
    np.testing.assert_allclose(
        open_significance_test("permutation").p_values(scores), open_significance_test("t").p_values(scores), atol=0.03
    )
