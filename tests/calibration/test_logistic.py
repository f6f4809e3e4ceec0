from __future__ import annotations

import math

import numpy as np
import pytest

from rerank.calibration.fitting import fit_logistic, minimise_log_loss
from rerank.calibration.models import LogisticModel, sigmoid, softplus
from rerank.errors import DataError


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
