"""Tests after a two-way analysis of variance, paired by topic: Tukey's HSD for all pairs, Dunnett's for a baseline."""

from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import numpy as np

from rerank.evaluation.significance.base import (
    SMALLEST,
    BaselineP,
    Bools,
    Floats,
    clip_p_values,
    differences_from_baseline,
    mean_paired_differences,
)

#: Largest number of pairs for which SciPy computes every p-value. With more pairs, p-values are interpolated.
_EXACT = 200
#: Number of exact p-values between which others are interpolated.
_INTERPOLATION_NODES = 200
#: Smallest p-value used for the interpolation: SciPy's integration is accurate to about twelve decimals.
_FLOOR = 1e-12
#: Number of nodes of the Gauss-Legendre quadrature in each of the two dimensions.
_QUADRATURE_NODES = 128


def anova_mean_square_error(scores: Floats) -> float:
    """Compute the mean square error of (topics, systems) scores, 0 if all residuals are within rounding error."""
    topics, systems = scores.shape
    # residual of topic i and system j: x_ij - x_i. - x_.j + x_..
    residuals = scores - scores.mean(axis=1, keepdims=True) - scores.mean(axis=0, keepdims=True) + scores.mean()
    residuals[abs(residuals) < 1e-14 * max(1.0, float(abs(scores).max()))] = 0.0
    return float((residuals**2).sum() / ((topics - 1) * (systems - 1)))


@dataclass(frozen=True)
class TukeyAnova:
    """Tukey HSD with the model: score = grand mean + topic effect + system effect + error of constant variance.

    With n topics and m systems, MSE = sum (x_ij - x_i. - x_.j + x_..)^2 / ((n - 1)(m - 1)). For a difference d between
    two means, q = |d| / sqrt(MSE / n) is compared with the studentised range distribution for m means and
    (n - 1)(m - 1) degrees of freedom. The test controls the family-wise error, so it needs no correction. If the topic
    and system effects explain all variance, p is 1. Source: Tukey 1953; Tague-Sutcliffe and Blustein, TREC-3;
    Carterette, TOIS 2012, section 4.2.
    """

    title: ClassVar[str] = "Tukey HSD after two-way ANOVA"
    family_wise: ClassVar[bool] = True

    def p_values(self, scores: Floats) -> Floats:
        """Return (pairs,) p-values; more than `_EXACT` of them are interpolated, since each takes milliseconds."""
        q, systems, freedom = self._statistic(scores)
        if freedom < 1 or not q.any():
            return np.ones(len(q))
        if len(q) <= _EXACT:
            return studentised_range_tail(q, systems, freedom)
        from scipy.interpolate import PchipInterpolator

        # the log p-value is interpolated between exact values at equidistant points; PCHIP interpolation is monotone,
        # so larger differences never get larger p-values
        nodes = np.linspace(0.0, float(q.max()), _INTERPOLATION_NODES)
        logs = np.log(np.maximum(studentised_range_tail(nodes, systems, freedom), _FLOOR))
        return clip_p_values(np.asarray(np.exp(PchipInterpolator(nodes, logs)(q))))

    def significant(self, scores: Floats, alpha: float) -> Bools:
        q, systems, freedom = self._statistic(scores)
        if freedom < 1:
            return np.zeros(len(q), dtype=bool)
        return q >= critical_studentised_range(alpha, systems, freedom)

    def half_width(self, scores: Floats, alpha: float) -> float:
        topics, systems = scores.shape
        critical = critical_studentised_range(alpha, systems, (topics - 1) * (systems - 1))
        return critical * float(np.sqrt(anova_mean_square_error(scores) / topics))

    def resolution(self, topics: int) -> float:
        return SMALLEST

    def _statistic(self, scores: Floats) -> tuple[Floats, int, int]:
        """Return (pairs,) q, the number of systems, and the degrees of freedom."""
        topics, systems = scores.shape
        freedom = (topics - 1) * (systems - 1)
        d = np.abs(mean_paired_differences(scores))
        if freedom < 1:
            return d, systems, freedom
        error = anova_mean_square_error(scores)
        return d / np.sqrt(error / topics) if error > 0 else np.zeros(len(d)), systems, freedom


def studentised_range_tail(q: Floats, systems: int, freedom: int) -> Floats:
    """Return the probability that the studentised range of ``systems`` means exceeds each value of ``q``."""
    from scipy.stats import studentized_range

    return clip_p_values(np.asarray(studentized_range.sf(q, systems, freedom)))


@lru_cache(maxsize=256)
def critical_studentised_range(alpha: float, systems: int, freedom: int) -> float:
    """Return the quantile of the studentised range that is exceeded with probability ``alpha``."""
    from scipy.stats import studentized_range

    return float(studentized_range.isf(alpha, systems, freedom))


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
        from scipy.stats import t

        error, freedom = self._error(scores)
        difference = differences_from_baseline(scores, baseline).mean(axis=0)
        if error == 0:
            return BaselineP(np.ones_like(difference), np.ones_like(difference))
        statistic = np.abs(difference) / error
        adjusted = np.array([dunnett_tail(float(value), len(statistic), freedom) for value in statistic])
        return BaselineP(clip_p_values(2 * t.sf(statistic, freedom)), clip_p_values(adjusted))

    def half_widths(self, scores: Floats, baseline: int, alpha: float) -> Floats:
        error, freedom = self._error(scores)
        comparisons = scores.shape[1] - 1
        return np.full(comparisons, error * critical_dunnett(alpha, comparisons, freedom) if error else 0.0)

    def _error(self, scores: Floats) -> tuple[float, int]:
        """Return sqrt(2 MSE / n), the standard error of a difference of two means, and its degrees of freedom."""
        topics, systems = scores.shape
        return float(np.sqrt(2 * anova_mean_square_error(scores) / topics)), (topics - 1) * (systems - 1)


def dunnett_tail(statistic: float, comparisons: int, freedom: int) -> float:
    """Return P(max_j |T_j| > t) for T_j = (Z_j - Z_0) / (sqrt(2) S), all Z standard normal and S^2 = chi^2_v / v.

    Given Z_0 = z and S = s, the Z_j are independent and |T_j| <= t means |Z_j - z| <= sqrt(2) s t. With q the
    probability of |Z_j - z| > sqrt(2) s t, the tail is the expectation of 1 - (1 - q)^k over z and s. ``statistic`` is
    t, ``comparisons`` is the number k of systems, and ``freedom`` is v.
    """
    from scipy.special import ndtr
    from scipy.stats import chi, norm

    nodes, weights = np.polynomial.legendre.leggauss(_QUADRATURE_NODES)
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
    """Return the value that the largest |t| of Dunnett's test exceeds with probability ``alpha``."""
    from scipy.optimize import brentq
    from scipy.stats import t

    # the critical value lies between the quantiles without a correction and with Bonferroni's correction
    low, high = (float(t.isf(level / 2, freedom)) for level in (alpha, alpha / comparisons))
    if comparisons == 1:
        return low
    return float(brentq(lambda value: dunnett_tail(value, comparisons, freedom) - alpha, low, high, xtol=1e-10))
