"""Correlations of rankings against other implementations and by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kendalltau

from rerank.adjudication.conclusions import kendall_tau, rank_biased_overlap, rank_changes, rank_systems, tau_ap

means = st.lists(st.integers(0, 6), min_size=2, max_size=12)


@given(st.integers(0, 10**6), st.integers(2, 15))
def test_tau_is_scipys(seed: int, many: int) -> None:
    chance = np.random.default_rng(seed)
    one, two = chance.integers(0, 5, (2, many)) / 4
    expected = kendalltau(one, two).statistic
    found = kendall_tau(one, two)
    assert (found is None) == bool(np.isnan(expected))
    assert found is None or found == pytest.approx(expected)


def places(text: str, other: str) -> tuple[np.ndarray, np.ndarray]:
    """Two rankings of the same letters."""
    return np.arange(len(text)), np.array([text.index(letter) for letter in other])


def test_tau_ap_by_hand() -> None:
    assert tau_ap(*places("abcd", "abcd")) == 1
    assert tau_ap(*places("abcd", "dcba")) == -1
    # bacd: C = 0, 2, 3 -> 2/3 (0/1 + 2/2 + 3/3) - 1
    assert tau_ap(*places("abcd", "bacd")) == pytest.approx(2 / 3 * 2 - 1)
    # abdc: C = 1, 2, 2 -> 2/3 (1 + 1 + 2/3) - 1: a swap at the end costs less
    assert tau_ap(*places("abcd", "abdc")) == pytest.approx(2 / 3 * (2 + 2 / 3) - 1)


def test_rbo_by_hand() -> None:
    assert rank_biased_overlap(*places("abcd", "abcd")) == pytest.approx(1)
    # bac: A = 0, 1, 1; extrapolated: p^3 + (1 - p)/p (p^2 + p^3)
    p = 0.8
    assert rank_biased_overlap(*places("abc", "bac"), p) == pytest.approx(p**3 + (1 - p) / p * (p**2 + p**3))


@given(st.permutations(range(7)), st.permutations(range(7)))
def test_rbo_is_symmetric_and_bounded(one: list[int], two: list[int]) -> None:
    a, b = np.array(one), np.array(two)
    assert rank_biased_overlap(a, b) == pytest.approx(rank_biased_overlap(b, a))
    assert 0 <= rank_biased_overlap(a, b) <= 1 + 1e-12
    assert -1 - 1e-12 <= tau_ap(a, b) <= 1 + 1e-12


def test_max_drop() -> None:
    assert rank_changes(*places("abcd", "bcda")).tolist() == [3, -1, -1, -1]
    assert rank_changes(*places("abcd", "dabc")).max() == 1


def test_equal_means_go_by_name() -> None:
    assert rank_systems(np.array([1.0, 2.0, 1.0]), ("z", "m", "a")).tolist() == [1, 2, 0]
