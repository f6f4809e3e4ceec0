"""Logistic regression with standardised inputs. It is fitted with numpy and applied in pure Python."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rerank.errors import DataError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]

#: Penalty on the squared coefficients of standardised inputs. It corresponds to a standard normal prior.
RIDGE = 1.0
#: Penalty on the squared intercept, which keeps the intercept finite if all labels are equal.
_INTERCEPT_RIDGE = 1e-3
_MAX_STEPS = 100
_TOLERANCE = 1e-10


def sigmoid(logit: float) -> float:
    """Return 1 / (1 + exp(-logit)) without overflow."""
    if logit >= 0:
        return 1.0 / (1.0 + math.exp(-logit))
    odds = math.exp(logit)
    return odds / (1.0 + odds)


def softplus(value: float) -> float:
    """Return log(1 + exp(value)) without overflow."""
    return max(value, 0.0) + math.log1p(math.exp(-abs(value)))


@dataclass(frozen=True, slots=True, kw_only=True)
class LogisticModel:
    """A logistic regression: logit = intercept + sum over inputs of coefficient * (value - mean) / sd.

    Attributes:
        inputs: Names of the inputs.
        means: Means of the inputs in the training set.
        sds: Standard deviations of the inputs in the training set; 1 for an input that was constant.
        coefficients: Coefficients of the standardised inputs.
        intercept: Logit of a row in which all inputs equal their means.
    """

    inputs: tuple[str, ...]
    means: tuple[float, ...]
    sds: tuple[float, ...]
    coefficients: tuple[float, ...]
    intercept: float

    def __post_init__(self) -> None:
        """Check that lengths agree, values are finite, and standard deviations are positive."""
        columns = (self.means, self.sds, self.coefficients)
        if any(len(column) != len(self.inputs) for column in columns):
            raise DataError(
                f"The logistic regression has {len(self.inputs)} inputs, but the numbers of means, standard deviations "
                f"and coefficients are {', '.join(str(len(c)) for c in columns)}",
                expected="one of each per input",
            )
        if not all(math.isfinite(value) for column in (*columns, (self.intercept,)) for value in column):
            raise DataError("The logistic regression has a value that is not finite", expected="finite numbers")
        if any(sd <= 0 for sd in self.sds):
            raise DataError(
                f"The standard deviations of the inputs are {list(self.sds)}", expected="positive numbers only"
            )

    def logits(self, columns: Sequence[Sequence[float]]) -> list[float]:
        """Return one logit per row.

        Args:
            columns: One sequence per input, all of the same length.
        """
        slopes = [coefficient / sd for coefficient, sd in zip(self.coefficients, self.sds, strict=True)]
        constant = self.intercept - sum(slope * mean for slope, mean in zip(slopes, self.means, strict=True))
        logits = [constant] * (len(columns[0]) if columns else 0)
        for slope, column in zip(slopes, columns, strict=True):
            logits = [logit + slope * value for logit, value in zip(logits, column, strict=True)]
        return logits


def fit_logistic(inputs: Sequence[str], values: Floats, labels: Floats, weights: Floats) -> LogisticModel:
    """Fit a logistic regression by Newton's method (iteratively reweighted least squares).

    The penalised log-likelihood is strictly concave, so a solution exists even for separable data and constant inputs.

    Args:
        inputs: Names of the inputs.
        values: (rows, inputs) values of the inputs.
        labels: (rows,) labels; probabilities in [0, 1] are allowed.
        weights: (rows,) positive weights.
    """
    import numpy as np

    means = np.average(values, axis=0, weights=weights)
    sds = np.sqrt(np.average((values - means) ** 2, axis=0, weights=weights))
    sds = np.where(sds > 1e-9 * np.maximum(1.0, np.abs(means)), sds, 1.0)
    design = np.column_stack([np.ones(len(values)), (values - means) / sds])
    penalty = np.full(design.shape[1], RIDGE)
    penalty[0] = _INTERCEPT_RIDGE
    solution = minimise_log_loss(design, labels, weights, penalty)
    return LogisticModel(
        inputs=tuple(inputs),
        means=tuple(means.tolist()),
        sds=tuple(sds.tolist()),
        coefficients=tuple(solution[1:].tolist()),
        intercept=float(solution[0]),
    )


def minimise_log_loss(design: Floats, labels: Floats, weights: Floats, penalty: Floats) -> Floats:
    """Return the coefficients that minimise the weighted, penalised log loss.

    loss(b) = sum_i w_i (log(1 + exp(x_i b)) - y_i x_i b) + sum_j penalty_j b_j^2 / 2

    Args:
        design: (rows, columns) design matrix with the rows x_i, including a column for the intercept.
        labels: (rows,) labels y_i.
        weights: (rows,) weights w_i.
        penalty: (columns,) positive penalties.

    Returns:
        (columns,) coefficients b.
    """
    import numpy as np

    def loss(solution: Floats) -> float:
        logits = design @ solution
        return float(weights @ (np.logaddexp(0.0, logits) - labels * logits) + penalty @ solution**2 / 2)

    solution = np.zeros(design.shape[1])
    current = loss(solution)
    for _ in range(_MAX_STEPS):
        probabilities = 0.5 * (1.0 + np.tanh(design @ solution / 2))
        gradient = design.T @ (weights * (probabilities - labels)) + penalty * solution
        curvature = weights * probabilities * (1.0 - probabilities)
        step = np.linalg.solve(design.T @ (design * curvature[:, None]) + np.diag(penalty), gradient)
        size = 1.0
        while (following := loss(solution - size * step)) > current and size > 1e-8:
            size /= 2  # a full step can overshoot where the curvature is small
        solution = solution - size * step
        if current - following <= _TOLERANCE * (1.0 + abs(current)):
            break
        current = following
    return solution
