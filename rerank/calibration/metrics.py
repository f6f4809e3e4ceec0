"""Measures of how well predicted probabilities agree with labels, with bootstrap intervals over queries.

Documents of the same query are not independent, so the bootstrap resamples whole queries: Efron's percentile method,
and an inverted test for the calibration error, which is biased upwards (`_Sums.invert_ece`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

#: Number of bins for the expected calibration error.
BINS = 10
_RESAMPLES = 1000
#: Number of levels to which probabilities are rounded for the AUC of bootstrap resamples. The reported AUC is exact.
_LEVELS = 1000

Interval = tuple[float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReliabilityBin:
    """A bin of similar predictions."""

    predicted: float  #: Mean prediction in the bin.
    observed: float  #: Share of positive labels in the bin.
    count: int  #: Number of predictions in the bin.


@dataclass(frozen=True, slots=True, kw_only=True)
class Metrics:
    """Measures of how well predicted probabilities agree with labels."""

    queries: int  #: Number of queries.
    count: int  #: Number of predictions.
    rate: float  #: Base rate: share of positive labels.
    #: Expected calibration error: mean of abs(predicted - observed) over equal-mass bins, weighted by bin size.
    ece: float
    #: Value of ``ece`` that perfectly calibrated probabilities would have on average with this number of queries.
    ece_by_chance: float
    ece_corrected: float  #: ``ece`` without its bias: the error whose estimate has ``ece`` as its median, 0 or more.
    brier: float  #: Brier score: mean squared difference between prediction and label.
    #: 1 - brier / b, where b is the Brier score of always predicting ``rate``; None if all labels are equal.
    brier_skill: float | None
    #: Probability that a positive label has a larger prediction than a negative label; None if all labels are equal.
    auc: float | None
    #: 95% intervals of the true calibration error (``ece``), ``brier``, ``brier_skill`` and ``auc``, and the band of
    #: ``ece_by_chance``; undefined intervals are omitted.
    intervals: dict[str, Interval]
    bins: tuple[ReliabilityBin, ...]  #: The bins used for the expected calibration error.


def measure_calibration(
    predictions: Sequence[float], labels: Sequence[bool], queries: Sequence[object], seed: int = 0
) -> Metrics:
    """Compute calibration error, Brier score and AUC of one or more predictions, with bootstrap intervals."""
    p, y = np.asarray(predictions, dtype=np.float64), np.asarray(labels, dtype=np.float64)
    position: dict[object, int] = {}
    query = np.array([position.setdefault(name, len(position)) for name in queries])
    edges = bin_edges(p)
    bins = np.searchsorted(edges, p, side="right")
    sums = _Sums.by_query(p, y, query, bins, len(edges) + 1)
    ones = np.ones((1, len(position)))
    (ece,), (brier,), (skill,) = sums.ece(ones), sums.brier(ones), sums.skill(ones)
    draws = np.random.default_rng(seed).multinomial(
        len(position), np.full(len(position), 1 / len(position)), size=_RESAMPLES
    )
    counts = draws.astype(np.float64)
    corrected, interval, band = sums.invert_ece(counts)
    samples = {
        "brier": sums.brier(counts),
        "brier_skill": sums.skill(counts),
        "auc": _auc_of_resamples(p, y, query, counts),
    }
    defined = {name: values[~np.isnan(values)] for name, values in samples.items()}
    ends = {name: np.quantile(values, [0.025, 0.975]).tolist() for name, values in defined.items() if len(values)}
    return Metrics(
        queries=len(position),
        count=len(p),
        rate=float(y.mean()),
        ece=float(ece),
        ece_by_chance=sums.ece_by_chance(),
        ece_corrected=corrected,
        brier=float(brier),
        brier_skill=None if math.isnan(skill) else float(skill),
        auc=exact_auc(p, y),
        # the deviations of one query from itself are 0, which says nothing about other queries
        intervals={"ece": interval, "ece_by_chance": band} | {name: (low, high) for name, (low, high) in ends.items()}
        if len(position) > 1
        else {},
        bins=tuple(
            ReliabilityBin(predicted=float(p[bins == b].mean()), observed=float(y[bins == b].mean()), count=int(n))
            for b, n in enumerate(np.bincount(bins))
            if n
        ),
    )


def bin_edges(p: Floats) -> Floats:
    """Return the inner edges of bins with equally many predictions; fewer than `BINS` if many predictions are equal."""
    order = np.sort(p)
    edges: Floats = np.unique(order[[len(p) * number // BINS for number in range(1, BINS)]])
    return np.asarray(edges[edges > order[0]])


def exact_auc(p: Floats, y: Floats) -> float | None:
    """Return the area under the ROC curve, with ties counted as one half; None if all labels are equal."""
    from scipy.stats import rankdata

    positive = int(y.sum())
    negative = len(y) - positive
    if not positive or not negative:
        return None
    ranks: Floats = rankdata(p)
    return float((float(ranks[y > 0.5].sum()) - positive * (positive + 1) / 2) / (positive * negative))


@dataclass(frozen=True, slots=True)
class _Sums:
    """Sums per query, from which the measures can be computed for any resample of queries."""

    size: Floats  #: (queries,) number of predictions.
    positive: Floats  #: (queries,) number of positive labels.
    squares: Floats  #: (queries,) sum of squared errors.
    gaps: Floats  #: (queries, bins) sum of prediction minus label.

    @classmethod
    def by_query(
        cls, p: Floats, y: Floats, query: npt.NDArray[np.int64], bins: npt.NDArray[np.int64], width: int
    ) -> _Sums:
        def total(cells: npt.NDArray[np.int64], values: Floats, count: int) -> Floats:
            return np.bincount(cells, weights=values, minlength=count).astype(np.float64)

        count = int(query.max()) + 1
        return cls(
            size=total(query, np.ones(len(p)), count),
            positive=total(query, y, count),
            squares=total(query, (p - y) ** 2, count),
            gaps=total(query * width + bins, p - y, count * width).reshape(count, width),
        )

    def ece(self, counts: Floats) -> Floats:
        """Return (samples,) calibration errors; ``counts``, (samples, queries), says how often a query occurs."""
        # size of bin / number of predictions * abs(mean gap of bin) = abs(sum of gaps in bin) / number of predictions
        return np.asarray(np.abs(counts @ self.gaps).sum(axis=1) / (counts @ self.size))

    def ece_by_chance(self) -> float:
        """Return the calibration error that perfectly calibrated probabilities would have on average.

        The gap of a bin is a sum of gaps per query, because documents of the same query are not independent. Its
        variance is estimated from the squared deviations of the gaps per query. The mean absolute value of a normal
        variable with mean 0 and standard deviation s is s sqrt(2 / pi).
        """
        if (count := len(self.size)) < 2:
            return 0.0
        deviations = ((self.gaps - self.gaps.mean(axis=0)) ** 2).sum(axis=0) * count / (count - 1)
        return float(np.sqrt(deviations).sum() * math.sqrt(2 / math.pi) / self.size.sum())

    def invert_ece(self, counts: Floats) -> tuple[float, Interval, Interval]:
        """Return the corrected calibration error, the 95% interval of the true one, and the band of one that is 0.

        ``counts`` are those of `ece`. A true error e is in the interval if a two-sided test does not reject it: the
        observed error is compared with the errors of gaps e * u + noise, where the noise is the deviation of resamples
        from the observed gaps, times sqrt(n / (n - 1)). How e is spread over bins is unknown: u is the observed gaps or
        the same gap in all bins, and e is rejected if both are. The corrected error is the mean of those whose median
        is the observed error. The band, e = 0, is a consistency resampling (Bröcker and Smith, Weather and Forecasting
        2007) of queries instead of labels. Source of the inversion: Efron and Tibshirani 1993, chapter 12.

        With 43 simulated queries of 20 documents, 300 samples each, the interval contains a true error of .002 in .963,
        .017 in .970 and .055 in .927 of the samples; percentiles of the resamples contain it in 0, 0 and .817.
        """
        queries, total = len(self.size), self.size.sum()
        gaps = self.gaps.sum(axis=0) / total
        observed = float(np.abs(gaps).sum())
        noise = ((counts @ self.gaps) / (counts @ self.size)[:, None] - gaps) * math.sqrt(queries / max(1, queries - 1))
        even = np.where(gaps < 0, -1.0, 1.0) / len(gaps)
        spreads = [gaps / observed, even] if observed else [even]

        def solve(level: float, spread: Floats) -> float:
            """Return the error for which the estimate is below the observed one with probability ``level``."""
            low, high = 0.0, 2 * observed + 1
            if np.quantile(np.abs(noise).sum(axis=1), level) >= observed:
                return 0.0
            while high - low > 1e-6:  # the quantile rises with the error
                middle = (low + high) / 2
                below = np.quantile(np.abs(middle * spread + noise).sum(axis=1), level) < observed
                low, high = (middle, high) if below else (low, middle)
            return low

        low, middle, high = ([solve(level, spread) for spread in spreads] for level in (0.975, 0.5, 0.025))
        band = np.quantile(np.abs(noise).sum(axis=1), [0.025, 0.975])
        return sum(middle) / len(middle), (min(low), max(high)), (float(band[0]), float(band[1]))

    def brier(self, counts: Floats) -> Floats:
        return (counts @ self.squares) / (counts @ self.size)

    def skill(self, counts: Floats) -> Floats:
        """Return the Brier skill score of each resample of queries; NaN if all its labels are equal."""
        rate = (counts @ self.positive) / (counts @ self.size)
        variance = rate * (1 - rate)
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(variance > 0, 1 - self.brier(counts) / variance, np.nan)


def _auc_of_resamples(p: Floats, y: Floats, query: npt.NDArray[np.int64], counts: Floats) -> Floats:
    """Return the AUC of each resample (see `_Sums.ece`), from histograms with at most `_LEVELS` levels, or NaN."""
    levels = np.unique(p)
    if len(levels) > _LEVELS:
        levels = np.unique(np.quantile(p, np.linspace(0, 1, _LEVELS), method="lower"))
    width, size = len(levels), counts.shape[1]
    cells = query * width + (np.searchsorted(levels, p, side="right") - 1)
    positive, negative = (
        counts @ np.bincount(cells, weights=labels, minlength=size * width).reshape(size, width)
        for labels in (y, 1 - y)
    )
    below = np.cumsum(negative, axis=1) - negative / 2  # negatives below a level plus half of those at it
    pairs = positive.sum(axis=1) * negative.sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(pairs > 0, (positive * below).sum(axis=1) / pairs, np.nan)
