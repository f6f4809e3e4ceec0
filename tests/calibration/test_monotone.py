from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import isotonic_regression

from rerank.calibration.models import make_non_increasing


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([], []),
        ([0.3], [0.3]),
        ([0.9, 0.5, 0.1], [0.9, 0.5, 0.1]),
        ([0.5, 0.5], [0.5, 0.5]),
        ([0.1, 0.9], [0.5, 0.5]),
        ([1.0, 0.0, 0.5, 0.25], [1.0, 0.25, 0.25, 0.25]),
        ([0.0, 0.0, 0.9], [0.3, 0.3, 0.3]),
    ],
)
def test_by_hand(values: list[float], expected: list[float]) -> None:
    assert make_non_increasing(values) == pytest.approx(expected)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=60))
def test_equals_scipy(values: list[float]) -> None:
    result = make_non_increasing(values)
    np.testing.assert_allclose(result, isotonic_regression(values, increasing=False).x, atol=1e-12)
    assert all(a >= b - 1e-15 for a, b in zip(result, result[1:], strict=False))
    assert sum(result) == pytest.approx(sum(values))
