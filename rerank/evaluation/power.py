"""Power analysis of the paired t-test: the number of topics needed to detect a difference."""

from __future__ import annotations

import math

from rerank.errors import UsageError

#: Upper limit of the search for the number of topics.
_MOST = 10**9


def paired_t_power(topics: int, difference: float, sd: float, alpha: float = 0.05) -> float:
    """Compute the power of the two-sided paired t-test.

    Let n be the number of topics, d the true mean difference and s the standard deviation of the differences. The t
    statistic follows the noncentral t distribution with n - 1 degrees of freedom and noncentrality d sqrt(n) / s.
    Source: Cohen, Statistical power analysis for the behavioral sciences, 1988, section 2.5; Sakai, Topic set size
    design, Information Retrieval Journal 2016.

    Args:
        topics: Number of topics n, at least 2.
        difference: True mean difference d, in units of the measure.
        sd: Standard deviation s of the per-topic differences, from an earlier comparison or an estimate.
        alpha: Significance level of a single test.

    Returns:
        The probability of a significant result, between alpha and 1.

    Raises:
        UsageError: A number is out of range.
    """
    from scipy.stats import nct, t

    _check_power_arguments(difference, sd, alpha)
    if topics < 2:
        raise UsageError(f"The number of topics is {topics}", expected="at least 2")
    # power = P(T > t_crit) + P(T < -t_crit), T noncentral with shift d sqrt(n) / s
    bound = float(t.isf(alpha / 2, topics - 1))
    shift = abs(difference) / sd * math.sqrt(topics)
    wrong_way = float(nct.cdf(-bound, topics - 1, shift))  # SciPy returns NaN below 1e-15
    return float(nct.sf(bound, topics - 1, shift)) + (0.0 if math.isnan(wrong_way) else wrong_way)


def topics_needed_for_power(difference: float, sd: float, alpha: float = 0.05, power: float = 0.8) -> int:
    """Return the smallest number of topics with which the paired t-test has the given power.

    Examples:
        >>> topics_needed_for_power(0.05, 0.1)
        34

    Args:
        difference: The true mean difference to detect.
        sd: Standard deviation of the per-topic differences.
        alpha: Significance level. For m pairs with Bonferroni's correction, pass the level divided by m.
        power: Probability of detecting the difference, between 0 and 1.

    Raises:
        UsageError: A number is out of range, or more than 10^9 topics are needed.
    """
    _check_power_arguments(difference, sd, alpha)
    if not 0 < power < 1:
        raise UsageError(f"power is {power}", expected="a number between 0 and 1")
    # power increases with the number of topics: double the number until the power suffices, then bisect
    high = 2
    while paired_t_power(high, difference, sd, alpha) < power:
        high *= 2
        if high > _MOST:
            raise UsageError(
                f"A difference of {difference:g} with a standard deviation of {sd:g} needs more than {_MOST} topics",
                expected="a larger difference or a smaller standard deviation",
            )
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if paired_t_power(middle, difference, sd, alpha) >= power else (middle, high)
    return high


def smallest_detectable_difference(topics: int, sd: float, alpha: float = 0.05, power: float = 0.8) -> float:
    """Return the smallest true mean difference that the paired t-test detects with the given power.

    Examples:
        >>> round(smallest_detectable_difference(34, 0.1), 3)
        0.05

    Args:
        topics: Number of topics, at least 2.
        sd: Standard deviation of the per-topic differences; if it is 0, the result is 0.
        alpha: Significance level of a single test. For m pairs with Bonferroni's correction, pass the level
            divided by m.
        power: Probability of detecting the difference, above alpha and below 1.
    """
    from scipy.optimize import brentq

    if sd == 0:
        return 0.0
    if not alpha < power < 1:
        raise UsageError(f"power is {power}", expected=f"a number between alpha ({alpha:g}) and 1")
    # in units of sd / sqrt(n); power increases with the difference, and 1e-9 has a power of alpha
    unit = sd / math.sqrt(topics)
    high = 1.0
    while paired_t_power(topics, high * unit, sd, alpha) < power:
        high *= 2
    return unit * float(brentq(lambda d: paired_t_power(topics, d * unit, sd, alpha) - power, 1e-9, high))


def _check_power_arguments(difference: float, sd: float, alpha: float) -> None:
    if not math.isfinite(difference) or difference == 0:
        raise UsageError(
            f"difference is {difference}",
            expected="a finite number other than 0",
            remedy="Pass the smallest difference that matters",
        )
    if not math.isfinite(sd) or sd <= 0:
        raise UsageError(
            f"sd is {sd}",
            expected="a finite number above 0",
            remedy="Use the standard deviation of the differences between two runs",
        )
    if not 0 < alpha < 1:
        raise UsageError(f"alpha is {alpha}", expected="a number between 0 and 1")
