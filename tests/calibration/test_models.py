"""Logistic regressions and calibrators: true probabilities recovered, SciPy's results, and invalid parameters."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import isotonic_regression

from rerank.calibration.fitting import FITTERS, fit_logistic, minimise_log_loss
from rerank.calibration.models import (
    Beta,
    Isotonic,
    LogisticModel,
    Method,
    Platt,
    make_non_increasing,
    sigmoid,
    softplus,
)
from rerank.errors import DataError

Array = Any
COUNT = 20_000


def draw(probability: Any, seed: int = 0) -> tuple[Array, Array, Array]:
    """Logits, labels drawn from the true probability of each, and weights."""
    random = np.random.default_rng(seed)
    logits = random.normal(0, 1.5, COUNT)
    labels = (random.random(COUNT) < np.array([probability(z) for z in logits])).astype(float)
    return logits, labels, np.ones(COUNT)


def overconfident(logit: float) -> float:
    return sigmoid(0.4 * logit - 1)


def skewed(logit: float) -> float:
    """A beta map: s = sigmoid(logit), a = .3, b = 2, c = -.5."""
    s = sigmoid(logit)
    return sigmoid(0.3 * math.log(s) - 2 * math.log(1 - s) - 0.5)


def stairs(logit: float) -> float:
    return 0.1 if logit < -1 else 0.35 if logit < 1 else 0.6


@pytest.mark.parametrize(
    ("method", "truth"),
    [
        *(("platt", overconfident), ("beta", overconfident), ("isotonic", overconfident)),
        *(("beta", skewed), ("isotonic", skewed), ("isotonic", stairs)),
    ],
)
def test_the_true_probabilities_are_recovered(method: Method, truth: Any) -> None:
    calibrator = FITTERS[method](*draw(truth))
    grid = [z for z in np.linspace(-3, 3, 41) if abs(abs(z) - 1) > 0.1]  # not on the steps of the stairs
    errors = [abs(calibrator(z) - truth(z)) for z in grid]
    assert float(np.mean(errors)) < 0.02
    # The test can fail: the sigmoid without a calibrator is far from the truth.
    assert float(np.mean([abs(sigmoid(z) - truth(z)) for z in grid])) > 0.1


@pytest.mark.parametrize("method", list(FITTERS))
@pytest.mark.parametrize("label", [0.0, 1.0])
def test_few_and_equal_labels_give_no_certainty_and_no_error(method: Method, label: float) -> None:
    calibrator = FITTERS[method](np.array([-1.0, 0.0, 0.0, 2.0]), np.full(4, label), np.ones(4))
    values = [calibrator(z) for z in (-50, -1, 0, 1, 50)]
    assert all(0 <= value <= 1 and abs(value - label) < 0.5 for value in values)
    single = FITTERS[method](np.array([1.0]), np.array([label]), np.ones(1))
    assert 0 <= single(0) <= 1


@pytest.mark.parametrize("method", list(FITTERS))
def test_a_reversed_order_gives_a_constant_near_the_base_rate(method: Method) -> None:
    logits, labels, weights = draw(lambda z: 0.25 + 0.2 * (z < 0))
    calibrator = FITTERS[method](logits, labels, weights)
    assert [calibrator(z) for z in (-1.0, 0.0, 1.0)] == pytest.approx([labels.mean()] * 3, abs=0.02)


def test_weights_count_like_copies() -> None:
    logits, labels = np.array([-2.0, -1.0, 0.0, 1.0, 2.0]), np.array([0.0, 1.0, 0.0, 1.0, 1.0])
    weights = np.array([1.0, 2.0, 3.0, 1.0, 2.0])
    copies = np.repeat(np.arange(5), weights.astype(int))
    for fit in FITTERS.values():
        weighted, copied = fit(logits, labels, weights), fit(logits[copies], labels[copies], np.ones(len(copies)))
        assert [weighted(z) for z in (-2, -0.5, 2)] == pytest.approx([copied(z) for z in (-2, -0.5, 2)], abs=1e-4)


def test_isotonic_is_linear_between_points_and_constant_beyond() -> None:
    calibrator = Isotonic(logits=(-1.0, 1.0), probabilities=(0.2, 0.6))
    assert [calibrator(z) for z in (-9.0, -1.0, 0.0, 0.5, 1.0, 9.0)] == pytest.approx([0.2, 0.2, 0.4, 0.5, 0.6, 0.6])


@pytest.mark.parametrize(
    "make",
    [
        lambda: Platt(slope=-1.0, intercept=0.0),
        lambda: Platt(slope=1.0, intercept=math.nan),
        lambda: Beta(a=1.0, b=-0.1, c=0.0),
        lambda: Isotonic(logits=(), probabilities=()),
        lambda: Isotonic(logits=(0.0,), probabilities=(0.1, 0.2)),
        lambda: Isotonic(logits=(1.0, 0.0), probabilities=(0.1, 0.2)),
        lambda: Isotonic(logits=(0.0, 1.0), probabilities=(0.2, 0.1)),
        lambda: Isotonic(logits=(0.0, 1.0), probabilities=(0.2, 1.1)),
        lambda: Isotonic(logits=(0.0, math.inf), probabilities=(0.2, 0.3)),
        lambda: Isotonic(logits=(0.0, 1.0), probabilities=(math.nan, 0.3)),
    ],
)
def test_invalid_parameters(make: Any) -> None:
    with pytest.raises(DataError):
        make()


def test_newton_finds_the_minimum_of_the_penalised_loss() -> None:
    from scipy.optimize import minimize

    random = np.random.default_rng(0)
    design = np.column_stack([np.ones(200), random.normal(size=(200, 2))])
    labels = (random.random(200) < 1 / (1 + np.exp(-design @ [0.5, 1.0, -2.0]))).astype(float)
    weights, penalty = random.uniform(0.5, 2, 200), np.array([0.001, 1.0, 3.0])

    def loss(b: np.ndarray) -> float:
        logits = design @ b
        return float(weights @ (np.logaddexp(0, logits) - labels * logits) + penalty @ b**2 / 2)

    expected = minimize(loss, np.zeros(3), method="BFGS", options={"gtol": 1e-8}).x
    np.testing.assert_allclose(minimise_log_loss(design, labels, weights, penalty), expected, atol=1e-5)


def test_coefficients_are_recovered_whatever_the_units() -> None:
    random = np.random.default_rng(1)
    values = np.column_stack([random.normal(-500, 40, 20_000), random.normal(3, 0.01, 20_000)])
    logits = 0.02 * (values[:, 0] + 500) + 100 * (values[:, 1] - 3) - 1
    labels = (random.random(20_000) < 1 / (1 + np.exp(-logits))).astype(float)
    model = fit_logistic(["a", "b"], values, labels, np.ones(20_000))
    fitted = model.logits([[-500, -450, -500], [3, 3, 3.01]])
    assert fitted == pytest.approx([-1, 0, 0], abs=0.1)


@pytest.mark.parametrize("label", [0.0, 1.0])
def test_equal_labels_separable_labels_and_constant_inputs_have_a_solution(label: float) -> None:
    values = np.column_stack([np.arange(10.0), np.full(10, 7.0)])
    one_class = fit_logistic(["a", "constant"], values, np.full(10, label), np.ones(10))
    assert all(abs(sigmoid(logit) - label) < 0.1 for logit in one_class.logits(values.T.tolist()))
    separable = fit_logistic(["a", "constant"], values, (values[:, 0] > 4).astype(float), np.ones(10))
    assert [logit > 0 for logit in separable.logits(values.T.tolist())] == [n > 4 for n in range(10)]
    # An input that did not vary says nothing, so other values of it change nothing.
    assert separable.logits([[2.0], [7.0]]) == pytest.approx(separable.logits([[2.0], [99.0]]))


def test_no_overflow() -> None:
    assert (sigmoid(-1e4), sigmoid(1e4), softplus(-1e4), softplus(1e4)) == (0, 1, 0, 1e4)
    assert sigmoid(0.3) == pytest.approx(1 / (1 + math.exp(-0.3)))
    assert softplus(0.3) == pytest.approx(math.log(1 + math.exp(0.3)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"means": (0.0, 1.0)}, "one of each per input"),
        ({"sds": (0.0,)}, "positive"),
        ({"coefficients": (math.nan,)}, "not finite"),
        ({"intercept": math.inf}, "not finite"),
    ],
)
def test_invalid_models(changes: dict[str, object], message: str) -> None:
    values: dict[str, object] = {"inputs": ("a",), "means": (0.0,), "sds": (1.0,), "coefficients": (2.0,)}
    with pytest.raises(DataError, match=message):
        LogisticModel(**{**values, "intercept": 0.0, **changes})  # type: ignore[arg-type]


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
