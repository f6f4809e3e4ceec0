"""Calibrators: non-decreasing functions from the logit of a regression to a probability.

Calibrators are fitted with numpy (and SciPy for isotonic regression) and applied in pure Python.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal

from rerank.calibration.logistic import minimise_log_loss, sigmoid, softplus
from rerank.errors import DataError

if TYPE_CHECKING:
    from rerank.calibration.logistic import Floats

Method = Literal["platt", "beta", "isotonic"]
#: Small penalty on the parameters of Platt and beta calibration, which keeps the parameters finite.
_RIDGE = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class Platt:
    """Platt scaling: p = sigmoid(slope * logit + intercept).

    Source: Platt 1999, Probabilistic outputs for support vector machines.
    """

    method: Literal["platt"] = "platt"
    slope: float
    intercept: float

    def __post_init__(self) -> None:
        """Check that slope and intercept are finite, and that the slope is not negative."""
        _check_calibrator_parameters((self.slope, self.intercept), self.slope)

    def __call__(self, logit: float) -> float:
        """Return the probability for a logit."""
        return sigmoid(self.slope * logit + self.intercept)


@dataclass(frozen=True, slots=True, kw_only=True)
class Beta:
    """Beta calibration: p = sigmoid(a log(s) - b log(1 - s) + c) with s = sigmoid(logit).

    Source: Kull, Silva Filho and Flach, AISTATS 2017.
    """

    method: Literal["beta"] = "beta"
    a: float
    b: float
    c: float

    def __post_init__(self) -> None:
        """Check that the parameters are finite, and that ``a`` and ``b`` are not negative."""
        _check_calibrator_parameters((self.a, self.b, self.c), min(self.a, self.b))

    def __call__(self, logit: float) -> float:
        """Return the probability for a logit."""
        return sigmoid(self.b * softplus(logit) - self.a * softplus(-logit) + self.c)


@dataclass(frozen=True, slots=True, kw_only=True)
class Isotonic:
    """Isotonic regression: a non-decreasing function, linear between its points and constant outside their range.

    Source: Zadrozny and Elkan, KDD 2002.

    Attributes:
        logits: Logits of the points, increasing.
        probabilities: Probabilities of the points, non-decreasing.
    """

    method: Literal["isotonic"] = "isotonic"
    logits: tuple[float, ...]
    probabilities: tuple[float, ...]

    def __post_init__(self) -> None:
        """Check that there are points, in order, with finite logits and with probabilities between 0 and 1."""
        count = len(self.logits)
        if not count or count != len(self.probabilities):
            raise DataError(
                f"The isotonic calibrator has {count} logits and {len(self.probabilities)} probabilities",
                expected="at least one point, and one probability per point",
            )
        increases = all(a < b for a, b in zip(self.logits, self.logits[1:], strict=False))
        is_ordered = all(a <= b for a, b in zip(self.probabilities, self.probabilities[1:], strict=False))
        if not increases or not is_ordered or not 0 <= self.probabilities[0] <= self.probabilities[-1] <= 1:
            raise DataError(
                "The points of the isotonic calibrator are not in order",
                expected="increasing logits, and non-decreasing probabilities between 0 and 1",
            )
        if not all(map(math.isfinite, self.logits)):
            raise DataError("A logit of the isotonic calibrator is not finite", expected="finite numbers")

    def __call__(self, logit: float) -> float:
        """Return the probability for a logit."""
        logits, probabilities = self.logits, self.probabilities
        after = bisect_right(logits, logit)
        if after == 0:
            return probabilities[0]
        if after == len(logits):
            return probabilities[-1]
        left, right = logits[after - 1], logits[after]
        low, high = probabilities[after - 1], probabilities[after]
        return low + (high - low) * (logit - left) / (right - left)


Calibrator = Platt | Beta | Isotonic


def fit_platt_calibrator(logits: Floats, labels: Floats, weights: Floats) -> Platt:
    """Fit Platt scaling to smoothed labels, as in Platt 1999.

    With n1 positive and n0 negative labels, a positive label becomes (n1 + 1) / (n1 + 2), and a negative label becomes
    1 / (n0 + 2).
    """
    import numpy as np

    positive = float(weights @ labels)
    negative = float(weights.sum()) - positive
    smoothed = np.where(labels > 0.5, (positive + 1) / (positive + 2), 1 / (negative + 2))
    design = np.column_stack([logits, np.ones(len(logits))])
    slope, intercept = minimise_log_loss(design, smoothed, weights, np.full(2, _RIDGE))
    if slope < 0:  # a function that reverses the order is replaced by the best constant function
        slope, intercept = 0.0, _logit_of_constant_calibrator(smoothed, weights)
    return Platt(slope=float(slope), intercept=float(intercept))


def fit_beta_calibrator(logits: Floats, labels: Floats, weights: Floats) -> Beta:
    """Fit beta calibration by logistic regression on log(s) and -log(1 - s).

    If a coefficient is negative, it is set to 0 and the other parameters are fitted again.
    """
    import numpy as np

    columns = {"a": -np.logaddexp(0.0, -logits), "b": np.logaddexp(0.0, logits)}
    while True:
        design = np.column_stack([*columns.values(), np.ones(len(logits))])
        solution = minimise_log_loss(design, labels, weights, np.full(design.shape[1], _RIDGE))
        values = dict(zip([*columns, "c"], solution.tolist(), strict=True))
        worst = min(columns, key=lambda name: values[name], default="")
        if not worst or values[worst] >= 0:
            return Beta(a=values.get("a", 0.0), b=values.get("b", 0.0), c=values["c"])
        del columns[worst]


def fit_isotonic_calibrator(logits: Floats, labels: Floats, weights: Floats) -> Isotonic:
    """Fit an isotonic regression.

    Half a positive observation is added at the lowest point and half a negative observation at the highest point, which
    avoids probabilities of 0 and 1: a few documents with the same label do not show that other labels are impossible.
    """
    import numpy as np
    from scipy.optimize import isotonic_regression

    points, position = np.unique(logits, return_inverse=True)
    mass = np.bincount(position, weights=weights)
    positive = np.bincount(position, weights=weights * labels)
    mass[0] += 0.5
    mass[-1] += 0.5
    positive[0] += 0.5
    fitted = isotonic_regression(positive / mass, weights=mass)
    # The two ends of each constant block define the function; the points between them are redundant.
    ends = np.unique(np.concatenate([fitted.blocks[:-1], fitted.blocks[1:] - 1]))
    return Isotonic(logits=tuple(points[ends].tolist()), probabilities=tuple(fitted.x[ends].tolist()))


#: Functions that fit the calibrators to compare, simplest first. The simplest is used if several are equally good.
FITTERS: Mapping[Method, Callable[[Floats, Floats, Floats], Calibrator]] = MappingProxyType(
    {"platt": fit_platt_calibrator, "beta": fit_beta_calibrator, "isotonic": fit_isotonic_calibrator}
)


def _logit_of_constant_calibrator(labels: Floats, weights: Floats) -> float:
    rate = float(weights @ labels) / float(weights.sum())
    return math.log(rate / (1 - rate))


def _check_calibrator_parameters(values: tuple[float, ...], least_slope: float) -> None:
    if not all(map(math.isfinite, values)) or least_slope < 0:
        raise DataError(
            f"The calibrator has the parameters {list(values)}", expected="finite numbers, and no negative slope"
        )
