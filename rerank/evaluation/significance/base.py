"""Protocols of significance tests, which are paired by topic; differences of scores; corrections for multiple pairs."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import Any, ClassVar, NamedTuple, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from rerank.errors import UnknownNameError, UsageError

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

#: Smallest p-value that is reported. Smaller values are raised to it, so a p-value is never 0.
SMALLEST = sys.float_info.min
#: Differences of scores are rounded to this number of decimals. Equal scores may differ in their last bits because of
#: rounding errors; such a difference must not count as a win.
DECIMALS = 12
#: Largest number of differences that are held in memory at the same time.
_BATCH_SIZE = 1 << 24


class PairTest(Protocol):
    """A significance test that tests all pairs of systems in one call. Dataclass fields are its options."""

    #: Name of the test in tables and reports.
    title: ClassVar[str]
    #: Whether the test itself controls the family-wise error over all pairs.
    family_wise: ClassVar[bool]

    def p_values(self, scores: Floats) -> Floats:
        """Return (pairs,) two-sided p-values of (topics, systems) scores: above 0; 1 if there is nothing to test."""

    def resolution(self, topics: int) -> float:
        """Return the smallest p-value that the test can return with this number of topics."""


@runtime_checkable
class SupportsDecision(Protocol):
    """A significance test that can decide which pairs differ without computing p-values, which would be slower."""

    def significant(self, scores: Floats, alpha: float) -> Bools:
        """Return (pairs,) whether two systems differ at the uncorrected level ``alpha``."""


@runtime_checkable
class SupportsIntervals(Protocol):
    """A test of all pairs together that defines its own simultaneous intervals."""

    def half_width(self, scores: Floats, alpha: float) -> float:
        """Return the half width of intervals that jointly cover all differences with probability 1 - alpha."""


class SinglePairTest:
    """Base class for tests of each pair separately. Their p-values have no lower bound by default."""

    family_wise: ClassVar[bool] = False

    def resolution(self, topics: int) -> float:
        return SMALLEST


class BaselineP(NamedTuple):
    """P-values of the comparisons with the baseline, as two arrays of shape (systems - 1,)."""

    raw: Floats  #: P-values of each comparison alone.
    adjusted: Floats  #: P-values that take the number of comparisons into account.


class BaselineTest(Protocol):
    """A test that compares every system with one baseline on the same topics."""

    @property
    def title(self) -> str: ...  # name in tables and reports

    @property
    def correction(self) -> str: ...  # ``none`` if the test controls the family-wise error itself

    @property
    def family_wise(self) -> bool: ...  # whether the test controls the family-wise error over all comparisons

    def p_values(self, scores: Floats, baseline: int) -> BaselineP:
        """Compute two-sided p-values of all systems but the baseline; ``scores`` has shape (topics, systems)."""

    def half_widths(self, scores: Floats, baseline: int, alpha: float) -> Floats:
        """Return (systems - 1,) half widths of intervals that cover all differences with probability 1 - alpha."""


def iterate_paired_differences(scores: Floats, decimals: int | None = DECIMALS) -> Iterator[Floats]:
    """Yield (topics, pairs in the batch) differences, rounded to ``decimals``, if any, so that equal scores tie."""
    first, second = np.triu_indices(scores.shape[1], 1)
    # number of pairs per batch
    step = max(1, _BATCH_SIZE // max(1, scores.shape[0]))
    for start in range(0, len(first), step):
        batch = slice(start, start + step)
        raw = scores[:, first[batch]] - scores[:, second[batch]]
        yield raw if decimals is None else np.round(raw, decimals)


def mean_paired_differences(scores: Floats) -> Floats:
    """Return (pairs,) the mean of the first system minus the mean of the second."""
    first, second = np.triu_indices(scores.shape[1], 1)
    means = scores.mean(axis=0)
    return np.asarray(np.round(means[first] - means[second], DECIMALS))


def differences_from_baseline(scores: Floats, baseline: int) -> Floats:
    """Return (topics, systems - 1) scores minus those of the baseline, rounded, so that equal scores tie."""
    return np.asarray(np.round(np.delete(scores, baseline, axis=1) - scores[:, [baseline]], DECIMALS))


def are_constant(values: Floats, tolerance: float = 0.0) -> Bools:
    """Return, for each column of (topics, columns) values, whether all values are equal."""
    return np.asarray(np.ptp(values, axis=0) <= tolerance)


def sample_variances(values: Floats, tolerance: float = 0.0) -> Floats:
    """Return the variance of each column, n - 1 degrees of freedom; exactly 0 if rounding is all that differs."""
    return np.where(are_constant(values, tolerance), 0.0, values.var(axis=0, ddof=1))


def sample_skewness(values: Floats) -> float:
    """Return the third standardised moment g1 of an array; 0 if all values are equal."""
    centred = values - values.mean()
    variance = float((centred**2).mean())
    return 0.0 if are_constant(values[:, None])[0] else float((centred**3).mean()) / variance**1.5


def standard_errors(differences: Floats) -> Floats:
    """Return the standard error of the mean of each column of (topics, pairs) differences; 0 for constant columns."""
    return np.asarray(np.sqrt(sample_variances(differences)) / np.sqrt(len(differences)))


def clip_p_values(p: Floats) -> Floats:
    """Clip p-values to the range from `SMALLEST` to 1, because a reported p-value must not be 0."""
    return np.clip(p, SMALLEST, 1.0)


# Corrections adjust p-values, which are then compared with the significance level. In the formulas, m is the number of
# p-values and p_(i) is the i-th smallest. A step-down procedure starts at the smallest p-value and stops at the first
# that is too large. A step-up procedure starts at the largest p-value and stops at the first that is small enough. For
# adjusted p-values, step-down becomes a running maximum and step-up a running minimum.


def _step_down(p: Floats, factors: npt.NDArray[Any]) -> Floats:
    order = np.argsort(p, kind="stable")
    return _restore_order(np.maximum.accumulate(p[order] * factors), order)


def _step_up(p: Floats, factors: npt.NDArray[Any]) -> Floats:
    order = np.argsort(p, kind="stable")
    return _restore_order(np.minimum.accumulate((p[order] * factors)[::-1])[::-1], order)


def _restore_order(adjusted: Floats, order: npt.NDArray[np.intp]) -> Floats:
    back = np.empty_like(adjusted)
    back[order] = np.minimum(1.0, adjusted)
    return back


#: Functions that adjust p-values, by the name of the correction.
CORRECTIONS: dict[str, Callable[[Floats], Floats]] = {
    "none": lambda p: p,
    # m p_(i), controls the family-wise error
    "bonferroni": lambda p: np.minimum(1.0, p * len(p)),
    # step-down with (m - i + 1) p_(i): Holm, Scandinavian J. of Statistics 1979
    "holm": lambda p: _step_down(p, len(p) - np.arange(len(p))),
    # step-up with (m - i + 1) p_(i), assumes independent tests: Hochberg, Biometrika 1988
    "hochberg": lambda p: _step_up(p, len(p) - np.arange(len(p))),
    # step-up with m p_(i) / i, controls the false discovery rate: Benjamini and Hochberg 1995
    "bh": lambda p: _step_up(p, len(p) / np.arange(1, len(p) + 1)),
    # step-up with (1 + 1/2 + ... + 1/m) m p_(i) / i, for any dependence between tests: Benjamini and Yekutieli 2001
    "by": lambda p: _step_up(p, len(p) / (ranks := np.arange(1, len(p) + 1)) * (1 / ranks).sum()),
}

#: Titles of the corrections in tables and reports, by name.
TITLES = {
    "none": "none",
    "bonferroni": "Bonferroni",
    "holm": "Holm",
    "hochberg": "Hochberg",
    "bh": "Benjamini-Hochberg",
    "by": "Benjamini-Yekutieli",
}


def correct_p_values(p: Floats, name: str) -> Floats:
    """Adjust the (pairs,) p-values with the named correction."""
    if name not in CORRECTIONS:
        raise UnknownNameError("correction", name, CORRECTIONS)
    return CORRECTIONS[name](p)


def required_p_value(name: str, alpha: float, pairs: int) -> float:
    """Return the p-value that a test must be able to reach so that at least one pair can become significant.

    The step-up procedures of Hochberg and of Benjamini and Hochberg reject all pairs if all p-values are at most alpha,
    so a test only needs to reach alpha.
    """
    if name in ("bonferroni", "holm"):
        return alpha / pairs
    # "by" divides alpha by the harmonic number; the other step-up procedures only need alpha
    return alpha / float((1 / np.arange(1, pairs + 1)).sum()) if name == "by" else alpha


def resolve_correction(test: str, correction: str, *, family_wise: bool) -> str:
    """Return the correction of a test, its default for ``auto``; a ``family_wise`` test takes only ``none``."""
    if correction == "auto":
        return "none" if family_wise else "holm"
    correct_p_values(np.ones(1), correction)  # raises if the name is unknown
    if family_wise and correction != "none":
        raise UsageError(
            f"The correction {correction!r} cannot be combined with the test {test!r}",
            expected="none, because the test controls the family-wise error itself",
            remedy="Omit the correction",
        )
    return correction
