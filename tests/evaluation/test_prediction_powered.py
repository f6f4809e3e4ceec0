"""Prediction-powered inference, against ppi-python and in a simulation."""

from __future__ import annotations

import numpy as np
import pytest

from rerank.adjudication.few_judgments import estimate_prediction_powered_mean
from rerank.errors import DataError, UsageError

PEOPLE = [0.908, -0.011, 0.584, 0.386, 0.409, 0.457, 0.096, 0.454, 0.327, 1.165, 0.545, 0.429]
MODEL = [0.698, 0.161, 0.381, 0.415, 0.601, 0.481, 0.54, 0.487, 0.468, 1.191, 0.682, 0.414]
MODEL_ONLY = [
    *(0.504, 0.685, 1.034, 0.483, 0.489, 0.801, 0.328, 0.477, 0.771, 0.695, 0.573, 0.718, -0.157, 0.805, 0.31),
    *(0.133, 0.619, 0.725, 0.439, 0.281, 0.557, 0.537, 0.901, 0.737, 0.598, 0.828, 0.499, 0.319, 0.696, 0.696),
]
#: weight (None: tuned) -> estimate and interval of ``ppi_mean_pointestimate`` and ``ppi_mean_ci`` of ppi-python 0.2.3.
EXPECTED = {
    None: (0.49811609, 0.37617431, 0.62005787),
    1.0: (0.5052, 0.37691882, 0.63348118),
    0.5: (0.49214167, 0.36384345, 0.62043988),
    0.0: (0.47908333, 0.30800942, 0.65015725),
}


@pytest.mark.parametrize(("weight", "expected"), EXPECTED.items())
def test_normal_intervals_are_those_of_ppi_python(weight: float | None, expected: tuple[float, float, float]) -> None:
    people, model, more = (np.array(values)[:, None] for values in (PEOPLE, MODEL, MODEL_ONLY))
    found = estimate_prediction_powered_mean(people, model, more, weight=weight, interval="normal")
    estimate, half = found.estimate.item(), found.half_width.item()
    assert (estimate, estimate - half, estimate + half) == pytest.approx(expected, abs=1e-8)
    if weight is None:
        assert found.weight.item() == pytest.approx(0.7287591297196675)


def test_a_useless_model_has_a_small_weight_and_a_perfect_one_a_large_weight() -> None:
    rng = np.random.default_rng(0)
    people, more = rng.normal(size=(40, 1)), rng.normal(size=(4000, 1))
    perfect = estimate_prediction_powered_mean(people, people, more)
    assert perfect.weight.item() > 0.5
    assert estimate_prediction_powered_mean(people, -people, more).weight.item() == 0
    constant = estimate_prediction_powered_mean(people, np.ones((40, 1)), np.ones((4000, 1)))
    assert constant.weight.item() == 0
    assert constant.estimate.item() == pytest.approx(people.mean())


def test_t_intervals_cover_and_normal_intervals_of_few_topics_do_not() -> None:
    rng = np.random.default_rng(1)
    people = rng.normal(size=(8, 4000))
    model, more = people + rng.normal(size=people.shape), rng.normal(0, 2**0.5, (30, 4000))
    covered = {}
    for interval in ("t", "normal"):
        found = estimate_prediction_powered_mean(people, model, more, interval=interval)
        covered[interval] = float((np.abs(found.estimate) <= found.half_width).mean())
    assert 0.94 < covered["t"] < 0.98
    assert covered["normal"] < 0.9


def test_wrong_input() -> None:
    two, three = np.zeros((2, 1)), np.zeros((3, 1))
    with pytest.raises(DataError):
        estimate_prediction_powered_mean(two, two, three)
    with pytest.raises(DataError):
        estimate_prediction_powered_mean(three, three, three[:1])
    with pytest.raises(UsageError):
        estimate_prediction_powered_mean(three, three, three, weight=2)
