"""Protocol for significance tests, and their base classes.

A test takes a (topics, systems) matrix of scores and returns one p-value per pair of systems. Systems are compared on
the same topics, so every test is paired.
"""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from rerank.errors import UsageError

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
        """Compute the two-sided p-values of all pairs of systems.

        Args:
            scores: (topics, systems) scores.

        Returns:
            (pairs,) p-values in the order of ``itertools.combinations``, above 0 and at most 1. The p-value is 1 if
            there is nothing to test.
        """

    def resolution(self, topics: int) -> float:
        """Return the smallest p-value that the test can return with this number of topics."""


@runtime_checkable
class SupportsDecision(Protocol):
    """A significance test that can decide which pairs differ without computing p-values, which would be slower."""

    def significant(self, scores: Floats, alpha: float) -> Bools:
        """Return a boolean array of shape (pairs,): whether two systems differ at the uncorrected level ``alpha``."""


@runtime_checkable
class SupportsIntervals(Protocol):
    """A test of all pairs together that defines its own simultaneous intervals."""

    def half_width(self, scores: Floats, alpha: float) -> float:
        """Return the half width of intervals that jointly cover all differences with probability 1 - alpha."""


class SinglePairTest(ABC):
    """Base class for tests that treat each pair separately. Their p-values have no lower bound by default."""

    title: ClassVar[str] = ""
    family_wise: ClassVar[bool] = False

    @abstractmethod
    def p_values(self, scores: Floats) -> Floats:
        """Compute two-sided p-values of all pairs."""

    def resolution(self, topics: int) -> float:
        """Return the smallest positive float: p-values have no lower bound."""
        return SMALLEST


@dataclass(frozen=True, kw_only=True)
class ResamplingOptions:
    """Options of tests that compare the observed statistic with its values in random draws.

    p = (1 + number of draws at least as extreme as the sample) / (B + 1). The sample itself counts as a draw, so p is
    never 0. Source: Davison and Hinkley, Bootstrap methods and their application, 1997, section 4.2.

    Attributes:
        permutations: Number of draws B.
        seed: Seed for the draws.
    """

    permutations: int = 10_000
    seed: int = 0

    def __post_init__(self) -> None:
        """Check that there is at least one draw and that the seed is not negative."""
        if self.permutations < 1:
            raise UsageError(f"permutations is {self.permutations}", expected="at least 1", remedy="Use 1000 or more")
        if self.seed < 0:
            raise UsageError(f"seed is {self.seed}", expected="a whole number, 0 or more")

    def enumerates(self, topics: int) -> bool:
        """Return whether all 2^topics sign patterns can be used, once each, instead of B random ones."""
        return 1 << topics <= self.permutations


class ResamplingTest(ResamplingOptions, SinglePairTest):
    """Base class for tests of single pairs that compare the observed statistic with random draws."""

    def resolution(self, topics: int) -> float:
        """Return 1 / (B + 1), the p-value if no draw is as extreme as the sample."""
        return 1 / (self.permutations + 1)


def iterate_paired_differences(scores: Floats, decimals: int | None = DECIMALS) -> Iterator[Floats]:
    """Yield the differences of all pairs (first system minus second) in batches of shape (topics, pairs in the batch).

    Pairs are in the order of ``itertools.combinations``.

    Args:
        scores: (topics, systems) scores.
        decimals: Number of decimals to which differences are rounded, so that equal scores tie; None for no rounding.
    """
    first, second = np.triu_indices(scores.shape[1], 1)
    # number of pairs per batch
    step = max(1, _BATCH_SIZE // max(1, scores.shape[0]))
    for start in range(0, len(first), step):
        batch = slice(start, start + step)
        raw = scores[:, first[batch]] - scores[:, second[batch]]
        yield raw if decimals is None else np.round(raw, decimals)


def mean_paired_differences(scores: Floats) -> Floats:
    """Return an array of shape (pairs,): the mean of the first system minus the mean of the second."""
    first, second = np.triu_indices(scores.shape[1], 1)
    means = scores.mean(axis=0)
    return np.asarray(np.round(means[first] - means[second], DECIMALS))


def bonferroni_t_half_widths(scores: Floats, level: float) -> Floats:
    """Return the half widths, shape (pairs,), of Student's t intervals of the mean differences.

    Args:
        scores: (topics, systems) scores.
        level: Probability that the interval of a single pair does not cover the true difference.
    """
    from scipy.stats import t

    spreads = [np.where(np.ptp(d, axis=0) == 0, 0.0, d.std(axis=0, ddof=1)) for d in iterate_paired_differences(scores)]
    return np.asarray(np.concatenate(spreads) * (t.isf(level / 2, len(scores) - 1) / np.sqrt(len(scores))))


def clip_p_values(p: Floats) -> Floats:
    """Clip p-values to the range from `SMALLEST` to 1, because a reported p-value must not be 0."""
    return np.clip(p, SMALLEST, 1.0)
