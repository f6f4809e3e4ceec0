"""The randomised max-t test of many systems against a baseline."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import ClassVar

import numpy as np

from rerank.evaluation.baseline_tests.base import BaselineP, differences_from_baseline, standard_errors
from rerank.evaluation.significance.base import Floats, ResamplingOptions, clip_p_values

#: Number of sign patterns per batch.
_STEP = 1000
#: Relative tolerance: statistics that differ by less are considered equal.
_EPSILON = 1e-10


@dataclass(frozen=True, kw_only=True)
class MaxT(ResamplingOptions):
    """Randomised max-t test, which flips the signs of all differences of a topic together.

    Each of B draws gives every topic a random sign, which multiplies the differences of all systems from the baseline
    on this topic. The dependence between the systems is thus preserved. With t_j = mean / (sd / sqrt(n)) of system j
    and t*_j of a draw, the adjusted p-value is (1 + #{max_j |t*_j| >= |t_j|}) / (B + 1), and the raw p-value uses
    |t*_j| alone. If there are at most B sign patterns, each is used once, and p is the fraction of patterns.
    Simultaneous intervals use the 1 - alpha quantile of max_j |t*_j| (single step). Source: Westfall and Young,
    Resampling-based multiple testing, 1993, section 2.5; Blanchard et al. on sign flips, e.g. Arlot, Blanchard and
    Roquain, Annals of Statistics 2010.
    """

    title: ClassVar[str] = "randomised max-t"
    correction: ClassVar[str] = "none"
    family_wise: ClassVar[bool] = True

    def p_values(self, scores: Floats, baseline: int) -> BaselineP:
        """Return raw p-values from each system's own statistics, and adjusted p-values from the largest statistics."""
        d = differences_from_baseline(scores, baseline)
        observed = _absolute_t(d.mean(axis=0), d) * (1 - _EPSILON)
        alone, together, draws = np.zeros(d.shape[1]), np.zeros(d.shape[1]), 0
        for statistics in self._statistics_of_draws(d):
            alone += (statistics >= observed).sum(axis=0)
            together += (statistics.max(axis=1)[:, None] >= observed).sum(axis=0)
            draws += len(statistics)
        extra = 0 if self.enumerates(len(d)) else 1  # the observed pattern is among the enumerated ones
        return BaselineP(*(clip_p_values((count + extra) / (draws + extra)) for count in (alone, together)))

    def half_widths(self, scores: Floats, baseline: int, alpha: float) -> Floats:
        """Return the half widths: the 1 - alpha quantile of the largest statistic times the standard errors."""
        d = differences_from_baseline(scores, baseline)
        largest = np.sort(np.concatenate([draws.max(axis=1) for draws in self._statistics_of_draws(d)]))
        quantile = largest[min(len(largest) - 1, int(np.ceil((1 - alpha) * (len(largest) + 1))) - 1)]
        errors = standard_errors(d)
        return np.where(errors > 0, quantile, 0.0) * errors

    def _statistics_of_draws(self, d: Floats) -> Iterator[Floats]:
        """Yield (batch, systems) arrays of |t*|, the absolute t of (topics, systems) differences with random signs."""
        if self.enumerates(len(d)):
            patterns = np.array(list(product((1.0, -1.0), repeat=len(d))))
            for start in range(0, len(patterns), _STEP):
                yield _absolute_t(patterns[start : start + _STEP] @ d / len(d), d)
            return
        rng = np.random.default_rng(self.seed)
        for start in range(0, self.permutations, _STEP):
            signs = rng.integers(0, 2, (min(_STEP, self.permutations - start), len(d))) * 2.0 - 1.0
            yield _absolute_t(signs @ d / len(d), d)


def _absolute_t(means: Floats, d: Floats) -> Floats:
    """Return |t| for means of (topics, systems) differences whose signs were flipped; 0 if all differences are 0.

    Flipping signs does not change the mean square, so the variance is the mean square minus the squared mean.
    """
    squares = (d**2).mean(axis=0)
    variance = np.maximum(squares - means**2, 0.0)
    variance[variance < squares * 1e-12] = 0.0  # all differences are equal
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.abs(means) / np.sqrt(variance / (len(d) - 1))
    return np.asarray(np.nan_to_num(t, nan=0.0, posinf=np.inf))
