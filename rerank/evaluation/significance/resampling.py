"""Tests that compare the observed statistic with its values in random draws: sign flips, bootstrap and permutations."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import product
from typing import ClassVar

import numpy as np

from rerank.errors import ensure
from rerank.evaluation.significance.base import (
    BaselineP,
    Floats,
    SinglePairTest,
    are_constant,
    clip_p_values,
    differences_from_baseline,
    iterate_paired_differences,
    mean_paired_differences,
    standard_errors,
)

#: Largest number of draws that a test accepts, so that it ends.
_MOST = 10_000_000
#: Largest number of draws per batch.
_STEP = 1000
#: Statistics that are smaller than the observed one by less than this are smaller only by rounding errors.
_EPSILON = 1e-10
#: Largest number of scores that a thread permutes in one task.
_SCORES_PER_TASK = 1 << 20


@dataclass(frozen=True, kw_only=True)
class ResamplingOptions:
    """Options of tests that compare the observed statistic with its values in random draws.

    p = (1 + number of draws at least as extreme as the sample) / (B + 1). The sample itself counts as a draw, so p is
    never 0. Source: Davison and Hinkley, Bootstrap methods and their application, 1997, section 4.2.
    """

    permutations: int = 10_000  #: Number of draws B.
    seed: int = 0

    def __post_init__(self) -> None:
        limits = f"at least 1 and at most {_MOST:,}"
        ensure(1 <= self.permutations <= _MOST, f"permutations is {self.permutations}", expected=limits)
        ensure(self.seed >= 0, f"seed is {self.seed}", expected="a whole number, 0 or more")

    def enumerates(self, topics: int) -> bool:
        """Return whether all 2^topics sign patterns can be used, once each, instead of B random ones."""
        return 1 << topics <= self.permutations

    def _sign_patterns(self, topics: int, step: int) -> Iterator[Floats]:
        """Yield (draws, topics) arrays of signs, at most ``step`` draws at a time: all patterns, or B random ones."""
        if self.enumerates(topics):
            # one of these is the observed pattern
            patterns = np.array(list(product((1.0, -1.0), repeat=topics)), dtype=np.float64)
            for start in range(0, len(patterns), step):
                yield patterns[start : start + step]
            return
        rng = np.random.default_rng(self.seed)
        for start in range(0, self.permutations, step):
            signs = rng.integers(0, 2, (min(step, self.permutations - start), topics))
            yield np.asarray(signs * 2.0 - 1.0, dtype=np.float64)

    def bootstrap_t(self, differences: Floats) -> Iterator[Floats]:
        """Yield (draws, pairs) studentised means of topics drawn with replacement, after a shift to a mean of 0.

        If all topics of a draw have the same difference, it has no variance, and its t is infinite. This is common
        where few topics differ: k of n topics are all missing from a draw with probability (1 - k / n)^n. The t of
        constant differences is 0.
        """
        count, pairs = differences.shape
        shifted = np.where(are_constant(differences), 0.0, differences - differences.mean(axis=0))
        squares, rng = shifted**2, np.random.default_rng(self.seed)
        rounding = squares.mean(axis=0) * 1e-9
        # draws are processed in batches to limit the size of the (batch, pairs) arrays
        step = max(1, min(_STEP, (1 << 23) // pairs))
        for start in range(0, self.permutations, step):
            batch = min(step, self.permutations - start)
            # weights: (batch, topics) relative frequency of each topic in a draw; means and variances: (batch, pairs)
            weights = rng.multinomial(count, np.full(count, 1 / count), size=batch) / count
            means = weights @ shifted
            variances = weights @ squares - means**2
            yield _studentised_means(means, np.where(variances > rounding, variances, 0.0), count)


class _ResamplingPairTest(ResamplingOptions, SinglePairTest):
    def resolution(self, topics: int) -> float:
        return 1 / (self.permutations + 1)


@dataclass(frozen=True, kw_only=True)
class Permutation(_ResamplingPairTest):
    """Paired randomisation test: under the null hypothesis, the difference on each topic could have either sign.

    Each of B draws assigns random signs to the differences. Let c be the number of draws whose absolute mean is at
    least the observed absolute mean; p = (1 + c) / (B + 1). If there are at most B sign patterns (2^n <= B), each is
    used once and p = c / 2^n. All pairs use the same signs. Source: Fisher 1935; Smucker, Allan and Carterette, CIKM
    2007.
    """

    title: ClassVar[str] = "paired randomisation"

    def p_values(self, scores: Floats) -> Floats:
        p_values = []
        for d in iterate_paired_differences(scores):
            # comparing sums is equivalent to comparing means
            observed = np.abs(d.sum(axis=0)) - _EPSILON
            extreme, draws = np.zeros(d.shape[1]), 0
            for signs in self._sign_patterns(len(d), max(1, min(_STEP, (1 << 24) // d.shape[1]))):
                extreme += (np.abs(signs @ d) >= observed).sum(axis=0)
                draws += len(signs)
            extra = 0 if self.enumerates(len(d)) else 1
            p_values.append((extreme + extra) / (draws + extra))
        return clip_p_values(np.concatenate(p_values))

    def resolution(self, topics: int) -> float:
        return min(1.0, 2.0 ** (1 - topics)) if self.enumerates(topics) else super().resolution(topics)


@dataclass(frozen=True, kw_only=True)
class MaxT(ResamplingOptions):
    """Max-t test against a baseline by a studentised bootstrap, stepped down; with ``flip``, by sign flips.

    t_j = mean / (sd / sqrt(n)) of the differences of system j from the baseline, and t*_j is the same in a draw. All
    systems share the draws, so the dependence between them is preserved. Both kinds of draws give p = (1 + number of
    draws at least as extreme) / (B + 1); the raw p-value compares t*_j alone.

    The bootstrap draws topics with replacement from the differences shifted to a mean of 0. With |t_(1)| >= |t_(2)|
    >= ..., the adjusted p-value of system (i) is the largest, over k <= i, of the p-values of max_{j >= k} |t*_(j)| >=
    |t_(k)|. An infinite t* (a draw without the few topics that differ) counts for its own system only, not in maxima
    of others. It assumes that topics are a random sample of all topics; the family-wise error is controlled for many
    topics. If all differences of a system are equal, p is 1, as in `Bootstrap`. Source: Romano and Wolf, Econometrica
    2005, algorithms 4.1 and 4.2, with studentised statistics (section 4.2).

    ``flip`` gives every topic a random sign, which multiplies the differences of all systems on this topic, and
    compares all |t_j| with max_j |t*_j| (single step). It is exact if the vector of the differences minus their means
    is symmetric, that is, has the same distribution under a common change of sign; unequal variances with skewed
    differences make it reject too often. If there are at most B sign patterns, each is used once, and p is the fraction
    of patterns. Source: Westfall and Young, Resampling-based multiple testing, 1993, section 2.5; Arlot, Blanchard and
    Roquain, Annals of Statistics 2010.

    Simultaneous intervals use the 1 - alpha quantile of max_j |t*_j| over all systems (single step), so one of them may
    include 0 although the step-down test rejects. A system whose own |t*_j| has a larger quantile gets that one; it is
    infinite if too few topics differ.
    """

    title: ClassVar[str] = "max-t"
    correction: ClassVar[str] = "none"
    family_wise: ClassVar[bool] = True

    flip: bool = False  #: Whether to flip signs instead of drawing topics.

    def p_values(self, scores: Floats, baseline: int) -> BaselineP:
        """Return the raw and adjusted p-values of all systems but the baseline, for (topics, systems) scores."""
        d = differences_from_baseline(scores, baseline)  # (topics, systems - 1): system minus baseline
        observed = _absolute_t(d.mean(axis=0), d) * (1 - _EPSILON)
        if not self.flip:
            observed[are_constant(d)] = 0.0
        order = np.argsort(-observed, kind="stable")
        alone, together, draws = np.zeros(d.shape[1]), np.zeros(d.shape[1]), 0
        for statistics in self._draw(d):
            alone += (statistics >= observed).sum(axis=0)
            if self.flip:
                largest = statistics.max(axis=1, keepdims=True)
            else:  # of this system and all with a smaller |t|
                largest, finite = np.empty_like(statistics), np.where(np.isinf(statistics), 0.0, statistics)
                largest[:, order] = np.maximum.accumulate(finite[:, order[::-1]], axis=1)[:, ::-1]
                largest = np.maximum(largest, statistics)
            together += (largest >= observed).sum(axis=0)
            draws += len(statistics)
        together[order] = np.maximum.accumulate(together[order])
        extra = 0 if self.flip and self.enumerates(len(d)) else 1
        raw, adjusted = (clip_p_values((count + extra) / (draws + extra)) for count in (alone, together))
        return BaselineP(raw=raw, adjusted=adjusted)

    def half_widths(self, scores: Floats, baseline: int, alpha: float) -> Floats:
        d = differences_from_baseline(scores, baseline)
        drawn = np.concatenate([*self._draw(d)])  # (draws, systems)
        largest = np.where(np.isinf(drawn), 0.0, drawn).max(axis=1)
        quantiles = np.maximum(_upper_quantile(largest, alpha), _upper_quantile(drawn, alpha))
        return np.where(are_constant(d), 0.0, quantiles) * standard_errors(d)

    def _draw(self, d: Floats) -> Iterator[Floats]:
        """Yield (draws, systems) values of |t*| for (topics, systems) differences."""
        if self.flip:
            yield from (_absolute_t(signs @ d / len(d), d) for signs in self._sign_patterns(len(d), _STEP))
        else:
            yield from (np.abs(t) for t in self.bootstrap_t(d))


def _absolute_t(means: Floats, d: Floats) -> Floats:
    """Return |t| for means of (topics, systems) differences whose signs were flipped; 0 if all differences are 0.

    Flipping signs does not change the mean square, so the variance is the mean square minus the squared mean.
    """
    squares = (d**2).mean(axis=0)
    variance = np.maximum(squares - means**2, 0.0)
    variance[variance < squares * 1e-12] = 0.0  # all differences are equal
    return np.abs(_studentised_means(means, variance, len(d)))


def _studentised_means(mean: Floats, variance: Floats, count: int) -> Floats:
    """Return the mean divided by its standard error; 0 if both are 0. ``variance`` is the mean squared deviation."""
    with np.errstate(divide="ignore", invalid="ignore"):
        studentised = mean / np.sqrt(variance / (count - 1))
    return np.asarray(np.nan_to_num(studentised, nan=0.0, posinf=np.inf, neginf=-np.inf))


def _upper_quantile(drawn: Floats, alpha: float) -> Floats:
    """Return the 1 - alpha quantile of statistics in B draws (the first axis), with the sample as a further draw."""
    place = min(len(drawn) - 1, int(np.ceil((1 - alpha) * (len(drawn) + 1))) - 1)
    return np.asarray(np.partition(drawn, place, axis=0)[place])


@dataclass(frozen=True, kw_only=True)
class Bootstrap(_ResamplingPairTest):
    """Paired bootstrap test: draw topics with replacement, after shifting the differences to a mean of 0.

    p = (1 + #{|t*| >= |t|}) / (B + 1), where #{...} counts draws. t is the studentised mean of the sample,
    mean / (sd / sqrt(n)), and t* is the studentised mean of a draw. Source: Efron and Tibshirani 1993, algorithm 16.2;
    Sakai, SIGIR 2006, figure 1. If all differences are equal, p is 1. A draw without variance counts as extreme, so p
    is large if few topics differ (`bootstrap_t`). All pairs use the same draws.
    """

    title: ClassVar[str] = "paired bootstrap"

    def p_values(self, scores: Floats) -> Floats:
        return clip_p_values(np.concatenate([self._p_values_of(d) for d in iterate_paired_differences(scores)]))

    def _p_values_of(self, d: Floats) -> Floats:
        count, pairs = d.shape
        constant = are_constant(d)
        if count < 2 or constant.all():
            return np.ones(pairs)
        # null hypothesis: the distribution of the differences has the same shape, but mean 0
        observed = np.abs(_studentised_means(d.mean(axis=0), d.var(axis=0), count)) - _EPSILON
        extreme = sum((np.abs(t) >= observed).sum(axis=0) for t in self.bootstrap_t(d))
        return np.where(constant, 1.0, (extreme + 1) / (self.permutations + 1))


@dataclass(frozen=True, kw_only=True)
class TukeyRandomised(_ResamplingPairTest):
    """Randomised Tukey HSD: under the null hypothesis, the scores of a topic could belong to any system.

    The scores of every topic are permuted over the systems B times. q* is the largest minus the smallest system mean
    after a permutation. For a difference d between two means, p = (1 + #{q* >= |d|}) / (B + 1), where #{...} counts
    permutations. The test controls the family-wise error, so it needs no correction. Results depend on the seed, but
    not on the number of threads. Source: Carterette, TOIS 2012, section 4.3; Sakai, Laboratory experiments in
    information retrieval, 2018.
    """

    title: ClassVar[str] = "randomised Tukey HSD"
    family_wise: ClassVar[bool] = True

    permutations: int = 100_000

    def p_values(self, scores: Floats) -> Floats:
        largest = self._sorted_ranges(scores)
        # one binary search per pair counts the values of q* below |d|, apart from rounding errors
        below = np.searchsorted(largest, np.abs(mean_paired_differences(scores)) - 1e-12, side="left")
        return clip_p_values((1 + len(largest) - below) / (len(largest) + 1))

    def half_width(self, scores: Floats, alpha: float) -> float:
        return float(_upper_quantile(self._sorted_ranges(scores), alpha))

    def _sorted_ranges(self, scores: Floats) -> Floats:
        step = max(1, _SCORES_PER_TASK // max(1, scores.size))
        sizes = [min(step, self.permutations - start) for start in range(0, self.permutations, step)]
        # one seed per task makes results independent of the number of threads
        seeds = np.random.SeedSequence(self.seed).spawn(len(sizes))
        with ThreadPoolExecutor(os.cpu_count()) as threads:
            ranges = threads.map(lambda size, seed: _permuted_ranges(scores, size, seed), sizes, seeds)
            return np.sort(np.concatenate(list(ranges)))


def _permuted_ranges(scores: Floats, count: int, seed: np.random.SeedSequence) -> Floats:
    """Permute the scores ``count`` times. Return an array of shape (count,): largest minus smallest system mean."""
    # (count, topics, systems), permuted independently within each topic
    permuted = np.repeat(scores[None], count, axis=0)
    np.random.default_rng(seed).permuted(permuted, axis=2, out=permuted)
    means = permuted.mean(axis=1)
    return np.asarray(means.max(axis=1) - means.min(axis=1))
