"""Equivalence and non-inferiority of paired scores by two one-sided t-tests (TOST)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from rerank.errors import UsageError
from rerank.evaluation.significance.base import Floats, clip_p_values


class EquivalenceP(NamedTuple):
    """P-values of (pairs,) comparisons with a margin; small values are evidence for the claim.

    Attributes:
        equivalent: P-values against the null hypothesis that the true difference is at least the margin in size.
        not_inferior: P-values against the null hypothesis that the true difference is at most minus the margin.
    """

    equivalent: Floats
    not_inferior: Floats


def equivalence_p_values(differences: Floats, margin: float) -> EquivalenceP:
    """Test whether mean differences lie within a margin.

    With the one-sided t-tests of d > -margin and d < margin, equivalence has the larger of the two p-values. It holds
    at level alpha if and only if the 1 - 2 alpha confidence interval lies within the margins. If all differences are
    equal, their variance cannot be estimated and p is 1, unless all are 0. Source: Schuirmann, J. Pharmacokinetics and
    Biopharmaceutics 1987; Lakens, SPPS 2017.

    Args:
        differences: (topics, pairs) scores of a system minus those of the baseline.
        margin: Largest difference that does not matter, in units of the measure.

    Raises:
        UsageError: The margin is not a positive number.
    """
    from scipy.stats import t

    if not (np.isfinite(margin) and margin > 0):
        raise UsageError(f"margin={margin}", expected="a number above 0, in units of the measure")
    topics = len(differences)
    constant = differences.min(axis=0) == differences.max(axis=0)
    mean = differences.mean(axis=0)
    error = differences.std(axis=0, ddof=1) / np.sqrt(topics)
    with np.errstate(divide="ignore", invalid="ignore"):
        above = t.sf((mean + margin) / error, topics - 1)
        below = t.sf((margin - mean) / error, topics - 1)
    limit = np.where(differences[0] == 0, 0.0, 1.0)
    not_inferior = clip_p_values(np.where(constant, limit, above))
    return EquivalenceP(np.maximum(not_inferior, clip_p_values(np.where(constant, limit, below))), not_inferior)
