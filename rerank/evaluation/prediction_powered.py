"""Prediction-powered inference: mean scores from people's judgments of few topics and a model's judgments of many.

Source: Angelopoulos et al., Prediction-powered inference, Science 2023; for the tuned weight, Angelopoulos, Duchi and
Zrnic, PPI++, arXiv 2311.01453; in retrieval, Oosterhuis et al., Reliable confidence intervals for information retrieval
evaluation using generative A.I., KDD 2024.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np

from rerank.errors import DataError, UsageError
from rerank.evaluation.significance.base import Floats

#: Smallest number of topics judged by people: t intervals have this number minus 2 degrees of freedom.
LEAST_JUDGED_TOPICS = 3


class PredictionPoweredMean(NamedTuple):
    """Estimated mean scores or mean differences of several systems, as arrays of shape (systems,)."""

    estimate: Floats
    half_width: Floats  #: Half of the width of the intervals around the estimates.
    weight: Floats  #: Weight of the model's judgments: 0 ignores them, 1 trusts them fully.


def estimate_prediction_powered_mean(
    people: Floats,
    model: Floats,
    model_only: Floats,
    *,
    weight: float | None = None,
    alpha: float = 0.05,
    interval: Literal["t", "normal"] = "t",
) -> PredictionPoweredMean:
    """Estimate means from n topics with both kinds of judgments and N topics with a model's judgments only.

    With scores y from people's judgments and f from the model's judgments, the estimate is mean_n(y) + w (mean_N(f) -
    mean_n(f)). For a given weight w it is unbiased, whatever the model's errors are, if the n topics are a random
    sample of all topics. Its variance is w^2 var_N(f) / N + var_n(y - w f) / n. This is smallest for the weight
    cov_n(y, f) / ((1 + n / N) var_{n+N}(f)), clipped to the range from 0 to 1. Since it is estimated from the same
    topics, it gives the estimate a bias of order 1 / n if the scores are skewed.

    The published interval is ``normal``. It holds for large n; with few topics it is too narrow, since it treats both
    variances and the weight as known. ``t`` divides the squared residuals by n - 2, as in a regression on f, and uses
    the quantile of the t distribution with n - 2 degrees of freedom.

    Args:
        people: (n, systems) scores computed from people's judgments.
        model: (n, systems) scores of the same topics, computed from the model's judgments.
        weight: Weight of the model's judgments; None for the weight with the smallest variance, chosen per system.
        alpha: Intervals have confidence level 1 - alpha.
    """
    from scipy.stats import norm, t

    n, more = len(people), len(model_only)
    if n < LEAST_JUDGED_TOPICS or more < 2:
        raise DataError(
            f"{n} topics are judged by people, and {more} topics are judged only by the model",
            expected=f"at least {LEAST_JUDGED_TOPICS} topics judged by people and at least 2 judged only by the model",
        )
    if weight is not None and not 0 <= weight <= 1:
        raise UsageError(f"weight is {weight}", expected="a number from 0 to 1")
    weights = _tune_weights(people, model, model_only) if weight is None else np.full(people.shape[1], float(weight))
    estimate = people.mean(axis=0) + weights * (model_only.mean(axis=0) - model.mean(axis=0))
    lost = 0 if interval == "normal" else 1
    residual = (people - weights * model).var(axis=0, ddof=2 * lost)
    variance = weights**2 * model_only.var(axis=0, ddof=lost) / more + residual / n
    quantile = norm.ppf(1 - alpha / 2) if interval == "normal" else t.ppf(1 - alpha / 2, n - 2)
    return PredictionPoweredMean(estimate, quantile * np.sqrt(variance), weights)


def _tune_weights(people: Floats, model: Floats, model_only: Floats) -> Floats:
    """Return the (systems,) weights of the model's judgments that minimise the variance of the estimates."""
    covariance = ((people - people.mean(axis=0)) * (model - model.mean(axis=0))).mean(axis=0)
    spread = np.concatenate([model, model_only]).var(axis=0, ddof=1) * (1 + len(model) / len(model_only))
    return np.asarray(np.divide(covariance, spread, out=np.zeros_like(covariance), where=spread > 0).clip(0, 1))
