from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from rerank.calibration.fitting import FITTERS
from rerank.calibration.models import Beta, Isotonic, Method, Platt, sigmoid
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
