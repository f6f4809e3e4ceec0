"""Equivalence and non-inferiority of paired scores by two one-sided t-tests (TOST)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from rerank.errors import UsageError
from rerank.evaluation.significance.base import Floats, clip_p_values


class EquivalenceP(NamedTuple):
    """P-values of tests with a margin, as arrays of shape (pairs,). Small values are evidence for the claim.

    Attributes:
        equivalent: P-values against the null hypothesis that the true difference is at least the margin in size.
        not_inferior: P-values against the null hypothesis that the true difference is at most minus the margin.
    """

    equivalent: Floats
    not_inferior: Floats


def equivalence_p_values(differences: Floats, margin: float) -> EquivalenceP:
    """Test whether mean differences lie within a margin.

    The p-value of equivalence is the larger of the p-values of two one-sided t-tests, for d > -margin and for
    d < margin. Equivalence holds at level alpha if and only if the 1 - 2 alpha confidence interval lies within the
    margins. If all differences are equal, their variance cannot be estimated: p is the smallest reported p-value if all
    differences are 0, and 1 otherwise. Source: Schuirmann, J. Pharmacokinetics and Biopharmaceutics
    1987; Lakens, SPPS 2017.

    Args:
        differences: (topics, pairs) scores of a system minus those of the baseline.
        margin: Largest difference that does not matter, in units of the measure.
    """
    from scipy.stats import t

    if not (np.isfinite(margin) and margin > 0):
        raise UsageError(f"margin is {margin}", expected="a number above 0, in units of the measure")
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
