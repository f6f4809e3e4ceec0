"""The paired bootstrap: every draw of few topics by hand, and t where t is right."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from rerank.evaluation.significance import open_significance_test


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


def test_for_normal_differences_it_is_near_t() -> None:
    scores = np.random.default_rng(3).normal(0, 1, (50, 5))
    np.testing.assert_allclose(
        open_significance_test("bootstrap").p_values(scores), open_significance_test("t").p_values(scores), atol=0.03
    )


def test_hardly_any_spread_beside_a_large_mean() -> None:
    """The spread is that of the differences, and no rounding of squares."""
    noise = 1e-7 * np.random.default_rng(4).normal(size=30)
    (p,) = open_significance_test("bootstrap,permutations=999").p_values(np.column_stack([1 + noise, np.zeros(30)]))
    assert p == open_significance_test("bootstrap,permutations=999").resolution(30) == 0.001


def test_the_same_difference_everywhere_leaves_nothing_to_draw_from() -> None:
    assert open_significance_test("bootstrap").p_values(np.column_stack([np.ones(30), np.zeros(30)])).tolist() == [1.0]
