"""What a test of pairs is: a topic x system matrix in, one p-value for every two systems out.

Systems are compared on the same topics, so every test here is paired. Knows nothing of runs, measures or files.
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

#: The least p-value that is reported: none is 0.
SMALLEST = sys.float_info.min
#: Differences of scores are rounded to so many decimals: equal scores may differ in their last bits, which must make
#: neither a win nor a rank of its own.
DECIMALS = 12
#: Numbers that a step over many pairs holds at a time.
_ROOM = 1 << 24


class PairTest(Protocol):
    """A test of all pairs of systems at once. Its fields are its options."""

    #: What it is called in tables and reports.
    title: ClassVar[str]
    #: Whether it keeps the chance of any false positive among all pairs at the level by itself.
    family_wise: ClassVar[bool]

    def p_values(self, scores: Floats) -> Floats:
        """Two-sided p-values.

        Args:
            scores: (topics, systems).

        Returns:
            (pairs,) in the order of ``itertools.combinations``, each above 0 and at most 1; 1 where there is nothing
            to test.
        """

    def resolution(self, topics: int) -> float:
        """The least p-value that it can give with so many topics, however large the difference."""


@runtime_checkable
class SupportsDecision(Protocol):
    """A test that can tell which pairs differ without their p-values, which cost more."""

    def significant(self, scores: Floats, alpha: float) -> Bools:
        """Which pairs differ at a level, before any correction; (pairs,)."""


class ByPValue(ABC):
    """What most tests are: one for single pairs, whose p-values have no lower bound of their own."""

    title: ClassVar[str] = ""
    family_wise: ClassVar[bool] = False

    @abstractmethod
    def p_values(self, scores: Floats) -> Floats:
        """See `PairTest`."""

    def resolution(self, topics: int) -> float:
        """See `PairTest`."""
        return SMALLEST


@dataclass(frozen=True, kw_only=True)
class ByChance(ByPValue):
    """A test that compares what was seen with what chance makes in many draws.

    p = (1 + #{draws at least as extreme}) / (B + 1), so that the sample itself counts as one draw and p is never 0.
    Source: Davison and Hinkley, Bootstrap methods and their application, 1997, section 4.2.

    Attributes:
        permutations: B, the number of draws.
        seed: Of the draws.
    """

    permutations: int = 10_000
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the options."""
        if self.permutations < 1:
            raise UsageError(f"permutations={self.permutations}", expected="at least 1", remedy="Take 1000 or more")
        if self.seed < 0:
            raise UsageError(f"seed={self.seed}", expected="a whole number from 0")

    def resolution(self, topics: int) -> float:
        """See `PairTest`."""
        return 1 / (self.permutations + 1)


def differences(scores: Floats, decimals: int | None = DECIMALS) -> Iterator[Floats]:
    """The (topics, some pairs) differences of all pairs, first system less second, in order and in bounded pieces.

    Args:
        scores: (topics, systems).
        decimals: Rounds them, so that equal scores tie; None leaves them as they are.
    """
    first, second = np.triu_indices(scores.shape[1], 1)
    step = max(1, _ROOM // max(1, scores.shape[0]))
    for start in range(0, len(first), step):
        part = slice(start, start + step)
        raw = scores[:, first[part]] - scores[:, second[part]]
        yield raw if decimals is None else np.round(raw, decimals)


def mean_differences(scores: Floats) -> Floats:
    """(pairs,) mean of the first system less mean of the second."""
    first, second = np.triu_indices(scores.shape[1], 1)
    means = scores.mean(axis=0)
    return np.asarray(np.round(means[first] - means[second], DECIMALS))


def bounded(p: Floats) -> Floats:
    """P-values above 0 and at most 1."""
    return np.clip(p, SMALLEST, 1.0)
