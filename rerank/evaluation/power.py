"""Power of the paired t-test: the number of topics needed, and what a comparison of existing runs can detect."""

import math
from collections.abc import Sequence
from itertools import combinations
from statistics import median
from typing import Any

import numpy as np

from rerank.errors import UnknownNameError, UsageError, ensure
from rerank.evaluation.pairwise_decisions import ComparisonOptions, check_significance_level
from rerank.evaluation.scores import ScoreMatrix, Scores, format_score
from rerank.evaluation.significance.base import sample_variances
from rerank.io.reports import Grid, PlainReport, TableReport, format_cell

#: Upper limit of the search for the number of topics.
_MOST = 10**9


def paired_t_power(topics: int, difference: float, sd: float, alpha: float = 0.05) -> float:
    """Compute the power of the two-sided paired t-test.

    Let n be the number of topics, at least 2, d the true mean difference and s the standard deviation of the
    differences (``sd``). The t statistic follows the noncentral t distribution with n - 1 degrees of freedom and
    noncentrality d sqrt(n) / s. Source: Cohen, Statistical power analysis for the behavioral sciences, 1988, section
    2.5; Sakai, Topic set size design, Information Retrieval Journal 2016. A number out of range is a `UsageError`.
    """
    from scipy.stats import nct, t

    _check_arguments(difference, sd, alpha)
    ensure(topics >= 2, f"The number of topics is {topics}", expected="at least 2")
    # power = P(T > t_crit) + P(T < -t_crit), T noncentral with shift d sqrt(n) / s
    bound = float(t.isf(alpha / 2, topics - 1))
    shift = abs(difference) / sd * math.sqrt(topics)
    wrong_way = float(nct.cdf(-bound, topics - 1, shift))  # SciPy returns NaN below 1e-15
    right_way = float(nct.sf(bound, topics - 1, shift))
    ensure(
        not math.isnan(right_way),
        f"The power of a test of {topics} topics at the level {alpha:g} cannot be computed",
        expected="a level that the test can reach, such as 1e-6",
    )
    return right_way + (0.0 if math.isnan(wrong_way) else wrong_way)


def topics_needed_for_power(difference: float, sd: float, alpha: float = 0.05, power: float = 0.8) -> int:
    """Return the smallest number of topics with which the paired t-test has the given power.

    For m pairs with Bonferroni's correction, pass the level ``alpha`` divided by m.

    >>> topics_needed_for_power(0.05, 0.1)
    34

    Raises:
        UsageError: A number is out of range, or more than 10^9 topics are needed.
    """
    _check_arguments(difference, sd, alpha)
    ensure(0 < power < 1, f"power is {power}", expected="a number between 0 and 1")
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
    """Return the smallest true mean difference that the paired t-test detects with the given power, 0 if ``sd`` is.

    >>> round(smallest_detectable_difference(34, 0.1), 3)
    0.05
    """
    from scipy.optimize import brentq

    if sd == 0:
        return 0.0
    ensure(alpha < power < 1, f"power is {power}", expected=f"a number between alpha ({alpha:g}) and 1")
    # in units of sd / sqrt(n); power increases with the difference, and 1e-9 has a power of alpha
    unit = sd / math.sqrt(topics)
    high = 1.0
    while paired_t_power(topics, high * unit, sd, alpha) < power:
        high *= 2
    return unit * float(brentq(lambda d: paired_t_power(topics, d * unit, sd, alpha) - power, 1e-9, high))


def _check_arguments(difference: float, sd: float, alpha: float) -> None:
    ensure(
        math.isfinite(difference) and difference != 0,
        f"difference is {difference}",
        expected="a finite number other than 0",
        remedy="Pass the smallest difference that matters",
    )
    ensure(
        math.isfinite(sd) and sd > 0,
        f"sd is {sd}",
        expected="a finite number above 0",
        remedy="Use the standard deviation of the differences between two runs",
    )
    check_significance_level(alpha)


def report_power_of_runs(
    scores: Sequence[Scores],
    measure: str,
    *,
    options: ComparisonOptions | None = None,
    power: float = 0.8,
    difference: float | None = None,
    baseline: str = "",
) -> PlainReport:
    """Report what a comparison of runs can detect, from the standard deviations of their per-topic differences.

    The observed differences are not used, because power at the observed difference only restates the p-value (Hoenig
    and Heisey, American Statistician 2001).

    The ``scores`` are over the same judged queries. Every correction except ``none`` divides the significance level by
    the number of pairs (Bonferroni), which is conservative for all corrections. ``power`` is the required probability
    of detecting a true difference, and ``difference`` the smallest true difference that matters. ``baseline`` is the
    run with which all others are compared; empty for all pairs. The result is the JSON object of ``rerank power``. Each
    of its ``rows`` has the pair ``a`` and ``b``, its observed ``difference``, ``sd`` (standard deviation of the
    per-topic differences), ``detectable`` (smallest detectable difference) and, if a difference is given,
    ``topics_needed`` (None if all per-topic differences are equal).
    """
    options = options or ComparisonOptions()
    check_significance_level(options.alpha)
    matrix = ScoreMatrix.from_scores(scores, measure)
    if baseline and baseline not in matrix.systems:
        raise UnknownNameError("baseline", baseline, matrix.systems)
    others = [(name, baseline) for name in matrix.systems if name != baseline]
    pairs = others if baseline else list(combinations(matrix.systems, 2))
    level = options.alpha if options.correction == "none" else options.alpha / len(pairs)
    rows: list[dict[str, Any]] = []
    for a, b in pairs:
        deltas = matrix.deltas(a, b)
        sd, mean = float(np.sqrt(sample_variances(deltas))), float(deltas.mean())
        detectable = smallest_detectable_difference(len(deltas), sd, level, power)
        rows.append({"a": a, "b": b, "difference": mean, "sd": sd, "detectable": detectable})
        if difference is not None:
            rows[-1]["topics_needed"] = topics_needed_for_power(difference, sd, level, power) if sd else None
    topics, of_pairs = len(matrix.topics), f"{len(rows)} pair{'s' * (len(rows) != 1)}"
    legend = [
        f"{measure}, {topics} queries. Detectable: smallest true difference that a paired t-test finds with power "
        f"{power:g} at level {level:.3g} (alpha {options.alpha:g}, {of_pairs})."
    ]
    if difference is not None:
        legend.append(f"Topics: number of topics with which a true difference of {difference:g} is found.")
    content = {
        "measure": measure,
        "topics": topics,
        "alpha": options.alpha,
        "level": level,
        "pairs": len(rows),
        "power": power,
        "difference": difference,
        "median_sd": median(row["sd"] for row in rows),
        "median_detectable": median(row["detectable"] for row in rows),
        "rows": rows,
    }

    def table(digits: int) -> TableReport:
        heads = ["a", "b", "difference", "sd", "detectable", *(["topics"] if difference is not None else [])]
        cells = [
            [
                row["a"],
                row["b"],
                f"{row['difference']:+.{digits}f}",
                format_score(row["sd"], digits),
                format_score(row["detectable"], digits),
                *([format_cell(row["topics_needed"])] if difference is not None else []),
            ]
            for row in rows
        ]
        return TableReport([Grid(heads, cells, left=2)], legend)

    return PlainReport(content=content, key="rows", table=table)
