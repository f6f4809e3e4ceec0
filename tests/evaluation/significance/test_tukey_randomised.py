"""Randomised Tukey HSD: all permutations of a small table by hand, and the sign flips that it is for two systems."""

from __future__ import annotations

import os
from itertools import permutations, product

import numpy as np
import pytest

from rerank.evaluation.significance import open_significance_test


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
