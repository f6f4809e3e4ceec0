"""How many topics it takes to find a difference: the power of the paired t-test. Knows no runs."""

from __future__ import annotations

import math

from rerank.errors import UsageError

#: No test collection has more topics than this.
_MOST = 10**9


def paired_t_power(topics: int, difference: float, sd: float, alpha: float = 0.05) -> float:
    """The chance that the two-sided paired t-test finds a difference that is there.

    With n topics, d the true mean difference and s the standard deviation of differences, t follows the noncentral t
    with n - 1 degrees of freedom and noncentrality d sqrt(n) / s. Source: Cohen, Statistical power analysis for the
    behavioral sciences, 1988, section 2.5; Sakai, Topic set size design, Information Retrieval Journal 2016.

    Args:
        topics: n, at least 2.
        difference: d, in the measure's own unit.
        sd: s, of per-topic differences; as seen in a comparison, or guessed.
        alpha: The level of significance, that of a single test.

    Returns:
        A share between alpha and 1.

    Raises:
        UsageError: Numbers that make no sense.
    """
    from scipy.stats import nct, t

    _check(difference, sd, alpha)
    if topics < 2:
        raise UsageError(f"{topics} topics", expected="at least 2")
    bound = float(t.isf(alpha / 2, topics - 1))
    shift = abs(difference) / sd * math.sqrt(topics)
    wrong_way = float(nct.cdf(-bound, topics - 1, shift))  # SciPy gives NaN where it is below 1e-15
    return float(nct.sf(bound, topics - 1, shift)) + (0.0 if math.isnan(wrong_way) else wrong_way)


def topics_needed(difference: float, sd: float, alpha: float = 0.05, power: float = 0.8) -> int:
    """The least number of topics with which the paired t-test finds a difference as often as wanted.

    >>> topics_needed(0.05, 0.1)
    34

    Args:
        difference: The true mean difference that should be found.
        sd: Standard deviation of the per-topic differences.
        alpha: The level of significance. For m pairs under Bonferroni, the level over m.
        power: How often it should be found, between 0 and 1.

    Raises:
        UsageError: Numbers that make no sense, or more than a thousand million topics.
    """
    _check(difference, sd, alpha)
    if not 0 < power < 1:
        raise UsageError(f"power={power}", expected="a number between 0 and 1")
    high = 2
    while paired_t_power(high, difference, sd, alpha) < power:
        high *= 2
        if high > _MOST:
            raise UsageError(
                f"A difference of {difference:g} at a deviation of {sd:g}", expected="one that can be found"
            )
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if paired_t_power(middle, difference, sd, alpha) >= power else (middle, high)
    return high


def _check(difference: float, sd: float, alpha: float) -> None:
    if not math.isfinite(difference) or difference == 0:
        raise UsageError(
            f"difference={difference}", expected="a number other than 0", remedy="Say what is worth finding"
        )
    if not math.isfinite(sd) or sd <= 0:
        raise UsageError(f"sd={sd}", expected="a number above 0", remedy="Take that of the differences of two runs")
    if not 0 < alpha < 1:
        raise UsageError(f"alpha={alpha}", expected="a number between 0 and 1")
