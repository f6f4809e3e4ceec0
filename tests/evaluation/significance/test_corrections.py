"""Corrections for many pairs: statsmodels' numbers, the procedures step by step, and what others get wrong."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rerank.errors import UnknownNameError
from rerank.evaluation.significance import CORRECTIONS, TITLES, correct_p_values, required_p_value
from tests.raising import raises

THEIRS = {"bonferroni": "bonferroni", "holm": "holm", "hochberg": "simes-hochberg", "bh": "fdr_bh", "by": "fdr_by"}
lists = st.lists(st.sampled_from([1e-6, 0.001, 0.01, 0.02, 0.03, 0.04, 0.049, 0.2, 0.5, 1.0]), min_size=1, max_size=12)


@pytest.mark.parametrize("name", THEIRS)
@settings(max_examples=25)
@given(p_values=st.lists(st.floats(1e-12, 1), min_size=1, max_size=30) | lists)
def test_they_are_those_of_statsmodels(name: str, p_values: list[float]) -> None:
    multitest = pytest.importorskip("statsmodels.stats.multitest")
    theirs = multitest.multipletests(p_values, method=THEIRS[name])[1]
    np.testing.assert_allclose(correct_p_values(np.array(p_values), name), theirs, rtol=1e-12)


def test_holm_stops_at_the_first_that_fails() -> None:
    """0.04 would pass its own bound of 0.05, but 0.03 has failed its bound of 0.025 before."""
    assert correct_p_values(np.array([0.01, 0.03, 0.04]), "holm") == pytest.approx([0.03, 0.06, 0.06])
    assert correct_p_values(np.array([0.04, 0.03, 0.01]), "hochberg") == pytest.approx([0.04, 0.04, 0.03])
    assert correct_p_values(np.array([0.045, 0.045]), "bh") == pytest.approx([0.045, 0.045])


@pytest.mark.parametrize("name", CORRECTIONS)
@given(p_values=lists, seed=st.integers(0, 9))
def test_order_does_not_matter_and_none_gets_smaller(name: str, p_values: list[float], seed: int) -> None:
    p = np.array(p_values)
    moved = np.random.default_rng(seed).permutation(len(p))
    adjusted = correct_p_values(p, name)
    np.testing.assert_allclose(correct_p_values(p[moved], name), adjusted[moved])
    assert ((adjusted >= p * (1 - 1e-12)) & (adjusted <= 1)).all()


@pytest.mark.parametrize("name", CORRECTIONS)
@pytest.mark.parametrize("pairs", [1, 3, 666])
def test_with_less_than_the_least_wanted_nothing_is_found_and_with_it_all_can_be(name: str, pairs: int) -> None:
    wanted = required_p_value(name, 0.05, pairs)
    assert (correct_p_values(np.full(pairs, wanted * (1 - 1e-9)), name) <= 0.05).all()
    assert not (correct_p_values(np.full(pairs, wanted * 1.001), name) <= 0.05).any()


def test_none_of_no_pairs() -> None:
    assert [len(correct_p_values(np.array([]), name)) for name in CORRECTIONS] == [0] * 6
    assert TITLES.keys() == CORRECTIONS.keys()


def test_an_unknown_one() -> None:
    with raises(UnknownNameError, "hlm", "holm"):
        correct_p_values(np.ones(2), "hlm")
