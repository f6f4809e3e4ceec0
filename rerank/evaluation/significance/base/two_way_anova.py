"""Error variance of the two-way analysis of variance with one score per topic and system."""

from __future__ import annotations

from rerank.evaluation.significance.base import Floats


def anova_mean_square_error(scores: Floats) -> float:
    """Compute the mean square error: the variance that topic and system effects do not explain.

    It has (topics - 1) x (systems - 1) degrees of freedom.

    Args:
        scores: (topics, systems) scores.

    Returns:
        The mean square error; 0 if all residuals are within rounding error.
    """
    topics, systems = scores.shape
    # residual of topic i and system j: x_ij - x_i. - x_.j + x_..
    residuals = scores - scores.mean(axis=1, keepdims=True) - scores.mean(axis=0, keepdims=True) + scores.mean()
    residuals[abs(residuals) < 1e-14 * max(1.0, float(abs(scores).max()))] = 0.0
    return float((residuals**2).sum() / ((topics - 1) * (systems - 1)))
