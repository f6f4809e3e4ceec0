"""What every test against a baseline must show. Runs over everything that is registered, and over tests of pairs."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rerank.evaluation.baseline_tests import baseline_tests, is_baseline_test, open_baseline_test
from rerank.evaluation.significance.base import Floats

every = pytest.mark.parametrize("name", [*(n.replace("_", "-") for n in baseline_tests.names()), "t", "sign"])


@st.composite
def matrices(draw: st.DrawFn) -> Floats:
    """Few topics and systems; sixteenths, whose differences have no rounding, so that ties and constants occur."""
    shape = draw(st.integers(2, 7)), draw(st.integers(2, 5))
    return np.random.default_rng(draw(st.integers(0, 10**6))).integers(0, 8, shape) / 16


@every
@settings(max_examples=15)
@given(scores=matrices(), data=st.data())
def test_p_values_are_probabilities_and_corrected_upwards(name: str, scores: Floats, data: st.DataObject) -> None:
    test, baseline = open_baseline_test(name), data.draw(st.integers(0, scores.shape[1] - 1))
    p = test.p_values(scores, baseline)
    assert p.raw.shape == p.adjusted.shape == (scores.shape[1] - 1,)
    assert ((p.raw > 0) & (p.adjusted <= 1)).all()
    assert (p.adjusted >= p.raw - 1e-9).all()
    assert (test.half_widths(scores, baseline, 0.05) >= 0).all()


@every
@given(scores=matrices())
@settings(max_examples=10)
def test_the_order_of_systems_has_no_effect(name: str, scores: Floats) -> None:
    order = np.arange(scores.shape[1])[::-1]
    p, turned = (
        open_baseline_test(name).p_values(*case).adjusted for case in ((scores, 0), (scores[:, order], order[0]))
    )
    np.testing.assert_allclose(p, turned[::-1], atol=1e-9)


@every
def test_a_large_difference_is_found_and_a_wide_interval_contains_a_narrow_one(name: str) -> None:
    scores = np.random.default_rng(1).normal([0.2, 0.2, 0.6], 0.1, (30, 3))
    test = open_baseline_test(name)
    p = test.p_values(scores, 0).adjusted
    assert p[1] < 0.01 < p[0]
    assert (test.half_widths(scores, 0, 0.01) >= test.half_widths(scores, 0, 0.1)).all()
    assert test.title
    assert is_baseline_test(name) == test.family_wise
