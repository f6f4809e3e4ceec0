"""Protocol for significance tests of several systems against one baseline."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np

from rerank.evaluation.significance.base import DECIMALS, Floats


class BaselineP(NamedTuple):
    """P-values of the comparisons with the baseline, as two arrays of shape (systems - 1,).

    Attributes:
        raw: P-values of each comparison alone.
        adjusted: P-values that take the number of comparisons into account.
    """

    raw: Floats
    adjusted: Floats


class BaselineTest(Protocol):
    """A test that compares every system with one baseline on the same topics."""

    @property
    def title(self) -> str:
        """Name of the test in tables and reports."""

    @property
    def correction(self) -> str:
        """Name of the correction; ``none`` if the test controls the family-wise error itself."""

    @property
    def family_wise(self) -> bool:
        """Whether the test itself controls the family-wise error over all comparisons with the baseline."""

    def p_values(self, scores: Floats, baseline: int) -> BaselineP:
        """Compute two-sided p-values of all systems but the baseline; ``scores`` has shape (topics, systems)."""

    def half_widths(self, scores: Floats, baseline: int, alpha: float) -> Floats:
        """Return the half widths of simultaneous intervals of the differences from the baseline, shape (systems - 1,).

        The intervals jointly cover all differences with probability 1 - alpha.
        """


def differences_from_baseline(scores: Floats, baseline: int) -> Floats:
    """Return the scores of the other systems minus the scores of the baseline, shape (topics, systems - 1).

    The differences are rounded, so that systems whose scores differ only by rounding errors are tied on the topic.
    """
    return np.asarray(np.round(np.delete(scores, baseline, axis=1) - scores[:, [baseline]], DECIMALS))


def standard_errors(differences: Floats) -> Floats:
    """Return the standard error of the mean of each column of (topics, pairs) differences; 0 for constant columns."""
    # rounding in the mean of constant differences must not look like variance
    constant = differences.min(axis=0) == differences.max(axis=0)
    return np.where(constant, 0.0, differences.std(axis=0, ddof=1) / np.sqrt(len(differences)))
