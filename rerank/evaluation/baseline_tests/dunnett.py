"""Dunnett's test of many systems against a baseline after a two-way analysis of variance, paired by topic."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import numpy as np

from rerank.evaluation.baseline_tests.base import BaselineP, differences_from_baseline
from rerank.evaluation.significance.base import Floats, clip_p_values
from rerank.evaluation.significance.base.two_way_anova import anova_mean_square_error

#: Number of nodes of the Gauss-Legendre quadrature in each of the two dimensions.
_NODES = 128


@dataclass(frozen=True)
class Dunnett:
    """Dunnett's test with the model: score = grand mean + topic effect + system effect + error of constant variance.

    With n topics and m systems, the error variance is the mean square error of the topic x system analysis with
    (n - 1)(m - 1) degrees of freedom. t = (mean - mean of the baseline) / sqrt(2 MSE / n). Under the null hypothesis,
    the m - 1 statistics have a multivariate t distribution with correlation 1/2, because all of them share the
    baseline. The adjusted p-value is the probability that the largest |t| exceeds the observed one. If topic and system
    effects explain all variance, p is 1. Source: Dunnett, JASA 1955; Hsu, Multiple comparisons, 1996, chapter 3.
    """

    title: ClassVar[str] = "Dunnett's test after two-way ANOVA"
    correction: ClassVar[str] = "none"
    family_wise: ClassVar[bool] = True

    def p_values(self, scores: Floats, baseline: int) -> BaselineP:
        """Return the two-sided p-values of single t-tests with the pooled variance, and those of Dunnett's test."""
        from scipy.stats import t

        error, freedom = _standard_error_of_differences(scores)
        difference = differences_from_baseline(scores, baseline).mean(axis=0)
        if error == 0:
            return BaselineP(np.ones_like(difference), np.ones_like(difference))
        statistic = np.abs(difference) / error
        adjusted = np.array([dunnett_tail(float(value), len(statistic), freedom) for value in statistic])
        return BaselineP(clip_p_values(2 * t.sf(statistic, freedom)), clip_p_values(adjusted))

    def half_widths(self, scores: Floats, baseline: int, alpha: float) -> Floats:
        """Return the half widths of Dunnett's simultaneous intervals, which are equal for all systems."""
        error, freedom = _standard_error_of_differences(scores)
        comparisons = scores.shape[1] - 1
        return np.full(comparisons, error * critical_dunnett(alpha, comparisons, freedom) if error else 0.0)


def _standard_error_of_differences(scores: Floats) -> tuple[float, int]:
    """Return sqrt(2 MSE / n), the standard error of a difference of two means, and its degrees of freedom."""
    topics, systems = scores.shape
    return float(np.sqrt(2 * anova_mean_square_error(scores) / topics)), (topics - 1) * (systems - 1)


def dunnett_tail(statistic: float, comparisons: int, freedom: int) -> float:
    """Return P(max_j |T_j| > t) for T_j = (Z_j - Z_0) / (sqrt(2) S), all Z standard normal and S^2 = chi^2_v / v.

    Given Z_0 = z and S = s, the Z_j are independent and |T_j| <= t means |Z_j - z| <= sqrt(2) s t. With q the
    probability of |Z_j - z| > sqrt(2) s t, the tail is the expectation of 1 - (1 - q)^k over z and s.

    Args:
        statistic: The value t, at least 0.
        comparisons: Number k of systems that are compared with the baseline.
        freedom: Degrees of freedom v of the variance estimate.
    """
    from scipy.special import ndtr
    from scipy.stats import chi, norm

    nodes, weights = np.polynomial.legendre.leggauss(_NODES)
    # (nodes, 1) values of z and (1, nodes) values of s that cover all but 1e-15 of their distributions
    z = 8.0 * nodes[:, None]
    low, high = (float(bound) / np.sqrt(freedom) for bound in (chi.ppf(1e-15, freedom), chi.isf(1e-15, freedom)))
    s = (low + high) / 2 + (high - low) / 2 * nodes[None, :]
    density_of_z = 8.0 * weights[:, None] * norm.pdf(z)
    density_of_s = (high - low) / 2 * weights[None, :] * chi.pdf(s * np.sqrt(freedom), freedom) * np.sqrt(freedom)
    reach = np.sqrt(2) * s * statistic
    outside = np.minimum(ndtr(-(z + reach)) + ndtr(z - reach), 1.0)
    with np.errstate(divide="ignore"):
        tail = -np.expm1(comparisons * np.log1p(-outside))
    return float(np.clip((tail * density_of_z * density_of_s).sum(), 0.0, 1.0))


@lru_cache(maxsize=256)
def critical_dunnett(alpha: float, comparisons: int, freedom: int) -> float:
    """Return the critical value of Dunnett's test, which the largest |t| exceeds with probability ``alpha``."""
    from scipy.optimize import brentq
    from scipy.stats import t

    # the critical value lies between the quantiles without a correction and with Bonferroni's correction
    low, high = (float(t.isf(level / 2, freedom)) for level in (alpha, alpha / comparisons))
    if comparisons == 1:
        return low
    return float(brentq(lambda value: dunnett_tail(value, comparisons, freedom) - alpha, low, high, xtol=1e-10))
